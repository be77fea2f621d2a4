"""Windows, importance maps and sliding-window predictions against those recorded from nnunetv2 2.8.1."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from safetensors.torch import load_file

from nnrules_runtime.network import UNet, build_network
from nnrules_runtime.network.names import to_our_names
from nnrules_runtime.predict.sliding import SlidingWindow
from nnrules_runtime.predict.window import Importance, evenly_spread
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.values import reading

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "e_inference"
REASON = "the recorded predictions are not beside the checkout (../shared/golden/runtime/e_inference)"
TOLERANCE = 1e-4
NAMES = {2: "2d", 3: "3d_fullres"}

Record = Callable[[str, object], None]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


def recorded(name: str, key: str) -> Any:
    return json.loads((RECORDED / name).read_text())[key] if RECORDED.is_dir() else {}


CASES: dict[str, Any] = recorded("sliding_window.json", "cases")
GAUSSIANS: dict[str, Any] = recorded("gaussian.json", "calls")


@pytest.fixture(scope="module")
def plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    fingerprint = make_fingerprint([(36, 50, 35)] * 30, [(1.0, 1.0, 1.0)] * 30, channels=("MRI",))
    return make_plan(fingerprint, load_pack("nnunet@2.8.0"))


def prediction(
    plan: Plan,
    case: dict[str, Any],
    image: npt.NDArray[np.float32],
    *,
    dtype: str,
    num_networks: int = 1,
    channels_last: bool = False,
) -> npt.NDArray[np.float64]:
    """Our prediction of a recorded image, with sums of a type."""
    dim = len(case["patch_size"])
    theirs = recorded("sliding_window.json", "networks")[case["network"]]
    kwargs = theirs["architecture"]["arch_kwargs"]
    document = copy.deepcopy(dict(plan.document))
    configuration = document["configurations"][NAMES[dim]]
    configuration["patch_size"] = case["patch_size"]
    configuration["architecture"] |= {
        "num_output_channels": theirs["num_classes"],
        "num_stages": kwargs["n_stages"],
        "features_per_stage": kwargs["features_per_stage"],
        "strides": kwargs["strides"],
        "kernel_sizes": kwargs["kernel_sizes"],
        "decoder_kernel_sizes": kwargs["kernel_sizes"][:-1],
        "blocks_per_stage_encoder": kwargs["n_conv_per_stage"],
        "blocks_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "deep_supervision": {"enabled": True, "num_heads": kwargs["n_stages"] - 1},
    }
    inference = configuration["inference"]
    inference["window"]["step"] = case["tile_step_size"]
    inference["accumulation"]["dtype"] = inference["folds"]["dtype"] = dtype
    inference["importance"]["name"] = "gaussian" if case["use_gaussian"] else "uniform"
    profile = choose_profile(device="cpu", precision="float32", num_threads=1, channels_last=channels_last)
    with reading(Plan(document)) as root:
        section = root.section("configurations").section(NAMES[dim])
        sliding = SlidingWindow(section, profile, mirror_axes=case["mirror_axes"] or ())
        network: UNet = build_network(section)
    network.load_state_dict(to_our_names(load_file(RECORDED / f"{case['network']}.safetensors")))
    prepared = sliding.prepared(network)
    return sliding([prepared] * num_networks, image).double().numpy()


@pytest.mark.parametrize("name", CASES)
def test_sliding_window(plan: Plan, name: str, record_property: Record) -> None:
    case = CASES[name]
    with np.load(RECORDED / "sliding_window.npz") as arrays:
        image, exact = arrays[case["image"]], arrays[f"{name}__logits_exact_accumulation"]
        theirs = arrays[f"{name}__logits"].astype(np.float64)
    difference = float(np.abs(prediction(plan, case, image, dtype="float32") - exact).max())
    folds = float(np.abs(prediction(plan, case, image, dtype="float32", num_networks=3) - exact).max())
    last = float(np.abs(prediction(plan, case, image, dtype="float32", channels_last=True) - exact).max())
    half = float(np.abs(prediction(plan, case, image, dtype="float16") - exact).max())
    peer = float(np.abs(theirs - exact).max())
    record_property("max difference of logits, float32 sums", difference)
    record_property("the same of three folds with equal weights", folds)
    record_property("the same with channels innermost", last)
    record_property("the same with float16 sums", half)
    record_property("nnU-Net's own float16 sums", peer)
    assert max(difference, folds) <= TOLERANCE, (
        f"float32 sums differ by {difference}, of three folds by {folds}"
    )
    # The norms of torch round differently there, most where padding makes up half of a patch.
    assert last <= 3 * TOLERANCE, f"with channels innermost logits differ by {last}"
    # Half precision as the plan says, but of weighted values: never further from the exact sum than nnU-Net's.
    assert half <= peer, f"float16 sums differ by {half}, nnU-Net's own by {peer}"
    assert half <= 1e-3 * np.abs(exact).max() + 1e-3


@pytest.mark.parametrize("name", CASES)
def test_windows_are_where_nnunet_has_them(plan: Plan, name: str) -> None:
    case = CASES[name]
    dim = len(case["patch_size"])
    document = copy.deepcopy(dict(plan.document))
    document["configurations"][NAMES[dim]]["patch_size"] = case["patch_size"]
    document["configurations"][NAMES[dim]]["inference"]["window"]["step"] = case["tile_step_size"]
    with reading(Plan(document)) as root:
        section = root.section("configurations").section(NAMES[dim])
        window = SlidingWindow(section, choose_profile(device="cpu")).window
    with np.load(RECORDED / "sliding_window.npz") as arrays:
        shape = arrays[case["image"]].shape[1:]
    inside = window.padding(shape).inside(shape)
    assert [[axis.start, axis.stop] for axis in inside] == case["revert_padding"]
    tiles = window.tiles(case["padded_shape"][1:])
    boxes = [[[axis.start, axis.stop] for axis in tiles.box(index)] for index in tiles]
    theirs = [[[tile[0], tile[0] + 1], *tile[1:]] if dim == 2 else tile for tile in case["tiles_in_order"]]
    assert boxes == theirs


def test_starts() -> None:
    cases = recorded("steps.json", "cases")
    assert len(cases) == 24
    for case in cases:
        pairs = zip(case["image_size"], case["tile_size"], strict=True)
        ours = [list(evenly_spread(size, tile, case["tile_step_size"])) for size, tile in pairs]
        assert ours == case["steps"], case


@pytest.mark.parametrize("name", GAUSSIANS)
def test_gaussian(name: str) -> None:
    call = GAUSSIANS[name]
    importance = Importance(
        is_gaussian=True,
        sigma_share=call["sigma_scale"],
        rounds_sigma_down=False,
        maximum=call["value_scaling_factor"],
        replaces_zeros=True,
        weights_single_tile=True,
        dim=len(call["tile_size"]),
    )
    ours = importance.map(call["tile_size"], call["dtype"])
    with np.load(RECORDED / "gaussian.npz") as arrays:
        theirs = arrays[name]
    difference = np.abs(ours.astype(np.float64) - theirs).max()
    assert ours.dtype == theirs.dtype
    assert difference <= (0 if call["dtype"] == "float16" else 1e-6), f"weights differ by {difference}"
