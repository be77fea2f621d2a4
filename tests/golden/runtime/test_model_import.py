"""A genuine model folder of nnU-Net v2 becomes a model of ours that computes the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nnrules.cli import run
from nnrules.engine.planning import make_plan
from nnrules.errors import ModelError
from nnrules.interop.nnunetv2_read import read_nnunet_fingerprint
from nnrules.plan import Plan

from nnrules_runtime.bundle import open_bundle
from nnrules_runtime.network.model import read_model, trained_folds
from nnrules_runtime.network.model_import import import_nnunetv2
from nnrules_runtime.network.nnunetv2 import read_nnunetv2_checkpoint, to_nnunetv2_state_dict

CHECKOUT = Path(__file__).resolve().parents[3]
RECORDED = CHECKOUT.parent / "shared" / "golden" / "runtime" / "c_model"
MODEL = RECORDED / "Dataset004_Hippocampus" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
REASON = "the recorded model is not beside the checkout (../shared/golden/runtime/c_model)"
NAME = "3d_fullres"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not RECORDED.is_dir(), reason=REASON),
]


@pytest.fixture(scope="module")
def plan() -> Plan:
    fingerprint = read_nnunet_fingerprint(MODEL / "dataset_fingerprint.json", MODEL / "dataset.json")
    return make_plan(fingerprint, "nnunet@2.8.0")


def test_an_imported_model_gives_the_recorded_logits(
    plan: Plan, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (model,) = import_nnunetv2(MODEL, plan, NAME, tmp_path / NAME)
    assert (model.fold, model.checkpoint, model.epoch, model.mirror_axes) == (0, "final", 6, (0, 1, 2))
    assert trained_folds(tmp_path / NAME) == {0: tmp_path / NAME / "fold_0"}
    again = read_model(tmp_path / NAME / "fold_0")
    assert again.file == model.file
    document = json.loads((tmp_path / NAME / "fold_0" / "model.json").read_text())
    assert document["source"] == {"program": "nnunetv2", "trainer": "nnUNetTrainer"}
    with np.load(RECORDED / "hippocampus_017_arrays.npz") as arrays:
        patch = torch.from_numpy(arrays["padded_input_patch"])
        wanted = torch.from_numpy(arrays["network_output_first_patch"])
    with torch.no_grad():
        logits = again.network()(patch)
    difference = (logits - wanted).abs().max().item()
    record_property("max_abs_difference_of_logits", difference)
    # the tolerance of the recording: fp32 on another number of threads
    assert difference < 1e-4, f"{difference:.1e} of {wanted.abs().max():.1f}"


def test_exported_weights_are_those_of_the_checkpoint(plan: Plan, tmp_path: Path) -> None:
    (model,) = import_nnunetv2(MODEL, plan, NAME, tmp_path / NAME)
    exported = to_nnunetv2_state_dict(model.network())
    path = MODEL / "fold_0" / "checkpoint_final.pth"
    # our own recording, so it may be read without restriction
    recorded = torch.load(path, map_location="cpu", weights_only=False)["network_weights"]
    assert sorted(exported) == sorted(recorded)
    assert all(torch.equal(exported[name], tensor) for name, tensor in recorded.items())


def test_what_the_checkpoint_says_about_itself() -> None:
    checkpoint = read_nnunetv2_checkpoint(MODEL / "fold_0" / "checkpoint_final.pth")
    assert checkpoint.plans == json.loads((MODEL / "plans.json").read_text())
    assert checkpoint.dataset == json.loads((MODEL / "dataset.json").read_text())
    assert (checkpoint.configuration, checkpoint.fold) == (NAME, 0)


CONFIGURATION = ("plans.json", "configurations", NAME)
NONLINEARITY = (*CONFIGURATION, "architecture", "arch_kwargs", "nonlin")


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ((*CONFIGURATION, "spacing"), [1.0, 1.0, 2.0], "spacing"),
        ((*CONFIGURATION, "patch_size"), [40, 56, 48], "patch_size"),
        (("plans.json", "transpose_forward"), [1, 0, 2], "transpose_forward"),
        ((*CONFIGURATION, "normalization_schemes"), ["CTNormalization"], "scheme"),
        ((*CONFIGURATION, "use_mask_for_norm"), [True], "use_mask"),
        (("dataset.json", "labels"), {"background": 0, "Posterior": 1, "Anterior": 2}, "dataset.labels"),
        (NONLINEARITY, "torch.nn.ReLU", "nonlinearity"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_of_another_plan_is_refused(
    plan: Plan, tmp_path: Path, place: tuple[str, ...], value: object, field: str
) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(MODEL, folder)
    for copied in [folder, *folder.rglob("*")]:
        copied.chmod(0o755 if copied.is_dir() else 0o644)
    file, *parents, last = place
    document = json.loads((folder / file).read_text())
    target = document
    for part in parents:
        target = target[part]
    target[last] = value
    (folder / file).write_text(json.dumps(document))
    with pytest.raises(ModelError, match="was trained otherwise") as caught:
        import_nnunetv2(folder, plan, NAME, tmp_path / "ours")
    assert [field in problem.where for problem in caught.value.problems] == [True]
    assert not (tmp_path / "ours").exists()


def test_another_network_is_refused_by_its_shapes(plan: Plan, tmp_path: Path) -> None:
    document = json.loads(json.dumps(plan.document))
    document["configurations"][NAME]["architecture"]["features_per_stage"] = [32, 64, 128, 128]
    with pytest.raises(ModelError, match="do not fit the network") as caught:
        import_nnunetv2(MODEL, Plan.from_document(document), NAME, tmp_path / "ours")
    assert "encoder.3.0.conv.weight is 256×128×3×3×3 instead of 128×128×3×3×3" in str(caught.value)


def test_a_folder_without_folds_is_refused(plan: Plan, tmp_path: Path) -> None:
    for name in ("plans.json", "dataset.json"):
        shutil.copyfile(MODEL / name, tmp_path / name)
    with pytest.raises(ModelError, match="no trained fold"):
        import_nnunetv2(tmp_path, plan, NAME, tmp_path / "ours")


def test_from_their_folder_to_a_bundle_that_predicts(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``nnrules run import`` and ``nnrules run bundle``: the network in the bundle gives nnU-Net's logits."""
    plan.save(tmp_path / "plan.json")
    work, out = tmp_path / "work", tmp_path / "hippocampus.nnrules"
    assert run(["run", "import", str(MODEL), str(work), "--plan", str(tmp_path / "plan.json")]) == 0
    assert "3d_fullres, fold 0, final, 6 epochs" in capsys.readouterr().out
    assert run(["run", "bundle", str(work), str(out), "--licence", "CC-BY-SA-4.0"]) == 0
    (model,) = open_bundle(out).models(NAME)
    with np.load(RECORDED / "hippocampus_017_arrays.npz") as arrays:
        patch = torch.from_numpy(arrays["padded_input_patch"])
        wanted = torch.from_numpy(arrays["network_output_first_patch"])
    with torch.no_grad():
        difference = (model.network()(patch) - wanted).abs().max().item()
    # the tolerance of the recording: fp32 on another number of threads
    assert difference < 1e-4, f"{difference:.1e} of {wanted.abs().max():.1f}"
    # Again, as after a second download; a training of ours would stay.
    assert run(["run", "import", str(MODEL), str(work), "--plan", str(tmp_path / "plan.json")]) == 0
    document = json.loads((work / "models" / NAME / "fold_0" / "model.json").read_text())
    document["source"] = {"program": "nnrules"}
    (work / "models" / NAME / "fold_0" / "model.json").write_text(json.dumps(document))
    assert run(["run", "import", str(MODEL), str(work), "--plan", str(tmp_path / "plan.json")]) == 2
    assert "a training is here" in capsys.readouterr().err


def test_an_interrupted_import_is_no_training(plan: Plan, tmp_path: Path) -> None:
    fold = tmp_path / NAME / "fold_0"
    fold.mkdir(parents=True)
    for name in (".final.safetensors", "final.00000000.safetensors"):
        (fold / name).write_bytes(b"half")
    import_nnunetv2(MODEL, plan, NAME, tmp_path / NAME)
    assert read_model(fold).fold == 0
    (fold / "model.json").unlink()
    (fold / "checkpoint.pt").write_bytes(b"of a training")
    with pytest.raises(ModelError, match=r"a training is here.*checkpoint\.pt"):
        import_nnunetv2(MODEL, plan, NAME, tmp_path / NAME)
