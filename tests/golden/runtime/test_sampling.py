"""Patch sizes and forced samples that are read from plans, and positions as the released nnU-Net v2 places them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train.sampling import PatchSampler, Phase
from nnrules_runtime.train.sampling_limits import overhang
from nnrules_runtime.values import reading

CHECKOUT = Path(__file__).resolve().parents[3]
SIZES = CHECKOUT.parent / "shared" / "golden" / "runtime" / "i_augmentation" / "initial_patch_size.json"
REASON = "the recorded patch sizes are not beside the checkout (../shared/golden/runtime/i_augmentation)"

# Blueprint 4.1: number of forced samples by batch size, released code and preprint.
BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 32, 50, 51, 52, 53, 107)
RELEASED = (0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 8, 11, 16, 17, 17, 17, 35)
PREPRINT = (1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 8, 11, 17, 17, 17, 18, 36)


def planned(fingerprint: Fingerprint, pack: str, name: str, **fields: Any) -> tuple[PatchSampler, Plan]:
    """The sampler of a configuration some of whose fields are set."""
    overrides = {f"configurations.{name}.{field}": value for field, value in fields.items()}
    plan = make_plan(fingerprint, load_pack(pack), overrides=overrides, check=False)
    with reading(plan) as root:
        configuration = root.section("configurations").section(name)
        return PatchSampler.from_plan(configuration, LabelSet.from_plan(root)), plan


@pytest.fixture(scope="module")
def fingerprint(make_fingerprint: Callable[..., Fingerprint]) -> Fingerprint:
    return make_fingerprint()


@pytest.mark.shared
@pytest.mark.skipif(not SIZES.is_file(), reason=REASON)
def test_initial_patch_sizes_are_those_recorded(fingerprint: Fingerprint, record_property: Any) -> None:
    """Recorded from nnunetv2 2.8.1's trainer for patches that were handed to it."""
    cases = json.loads(SIZES.read_text())["cases"]
    for case in cases:
        patch = case["patch_size"]
        name = "3d_fullres" if len(patch) == 3 else "2d"
        sampler, _ = planned(fingerprint, "nnunet@2.8.0", name, patch_size=patch)
        flat = [1] * (3 - len(patch))
        assert list(sampler.sizes[Phase.TRAIN]) == [*flat, *case["initial_patch_size"]], patch
        assert list(sampler.sizes[Phase.VALIDATION]) == [*flat, *patch], patch
    record_property("patch_sizes_compared_equal", len(cases))
    assert len(cases) >= 24


@pytest.mark.parametrize(
    ("pack", "expected"),
    [
        ("nnunet@1.0.0", RELEASED),
        ("nnunet@1.7.0", RELEASED),
        ("nnunet@2.8.0", RELEASED),
        ("preprint@2.0.0", PREPRINT),
    ],
)
def test_as_many_samples_are_forced_as_the_blueprint_says(
    fingerprint: Fingerprint, pack: str, expected: tuple[int, ...]
) -> None:
    for batch_size, number in zip(BATCHES, expected, strict=True):
        sampler, _ = planned(fingerprint, pack, "3d_fullres", batch_size=batch_size)
        forced = [sampler.is_forced(sample, np.random.default_rng(0)) for sample in range(batch_size)]
        assert forced == sorted(forced), "forced samples come last"
        assert sum(forced) == number, batch_size


ASK_PEER = """
import json, sys
import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

class Labels:
    all_labels = [0, 1, 2]
    has_ignore_label = False

class Cases:
    identifiers = ["a"]

np.random.seed(0)
answers = []
for shape, initial, final, voxel in json.load(sys.stdin):
    loader = nnUNetDataLoader(Cases(), 2, initial, final, Labels(), 0.33)
    random = np.array([loader.get_bbox(np.array(shape), False, {})[0] for _ in range(400)])
    place = np.array([[0, *voxel]])
    forced = [int(edge) for edge in loader.get_bbox(np.array(shape), True, {1: place})[0]]
    answers.append([random.min(0).tolist(), random.max(0).tolist(), forced])
json.dump(answers, sys.stdout)
"""


def peer_requests(number: int) -> list[tuple[list[int], list[int], list[int], list[int]]]:
    """Shapes, initial and final patch sizes with few possible starts, and a voxel to centre on."""
    random = np.random.default_rng(11)
    requests = []
    for _ in range(number):
        final = random.integers(2, 60, 3)
        initial = final + random.integers(0, 30, 3)
        shape = np.maximum(1, initial + random.integers(-30, 8, 3))
        requests.append(tuple(part.tolist() for part in (shape, initial, final, random.integers(shape))))
    return requests


@pytest.mark.peer
@pytest.mark.slow
def test_positions_are_those_of_the_installed_peer(peer_python: Path, record_property: Any) -> None:
    """Smallest and largest of 400 random starts, and the start of a forced patch, from nnunetv2 2.8.1 asked now."""
    requests = peer_requests(60)
    run = subprocess.run(
        [peer_python, "-c", ASK_PEER],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    answers = json.loads(run.stdout[run.stdout.index("[[") :])
    for (shape, initial, final, voxel), (lowest, highest, forced) in zip(requests, answers, strict=True):
        limits = [overhang(*edges) for edges in zip(shape, initial, final, strict=True)]
        assert [axis.lowest for axis in limits] == lowest
        assert [axis.highest_random for axis in limits] == highest
        starts = [
            axis.around(at, edge, both=False) for axis, at, edge in zip(limits, voxel, initial, strict=True)
        ]
        assert starts == forced
    record_property("positions_compared_equal", len(answers))
