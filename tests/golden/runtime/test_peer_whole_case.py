"""Cases of the shared sets, from file to segmentation, with imported models, against the installed nnunetv2 2.8.1."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnrules.image_io import read_image
from nnrules.plan import Plan

from nnrules_runtime.network.model_import import import_nnunetv2
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import choose_profile

SHARED = Path(__file__).resolve().parents[4] / "shared"
DATA = SHARED / "data"
GOLDEN = SHARED / "golden" / "runtime"
MODEL = GOLDEN / "c_model" / "Dataset004_Hippocampus" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
REASON = (
    "the data or the trained model are not beside the checkout (../shared/data, ../shared/golden/runtime)"
)
# The peer sums windows in float16, its probabilities are up to 4e-4 off where windows agree and more in corners.
SHARE_LIMIT, PROBABILITY_LIMIT = 1e-3, 2e-3
EXACT_SHARE_LIMIT, EXACT_PROBABILITY_LIMIT = 2e-5, 1e-4
NUM_TRAINED = 1

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.peer,
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (MODEL.is_dir() and DATA.is_dir()), reason=REASON),
]

Compare = Callable[[str, float, float], None]


def drawn_images(rng: np.random.Generator, name: str, number: int) -> list[Path]:
    paths = sorted((DATA / name / "imagesTr").glob("*_0000.*"))
    return [paths[index] for index in sorted(rng.choice(len(paths), number, replace=False))]


class Cases:
    """Our predictions of some cases with an imported model."""

    def __init__(self, plan: Plan, name: str, model: Path, paths: list[Path], folder: Path) -> None:
        import_nnunetv2(model, plan, name, folder / name)
        profile = choose_profile(device="cpu", precision="float32", num_threads=1)
        predictor = Predictor(folder / name / "fold_0", profile=profile)
        self.labels, self.probabilities = [], []
        for path in paths:
            image, geometry = read_image([path])
            prepared, grid = predictor.prepare(image, geometry.spacing)
            logits = predictor.logits(prepared)
            self.labels.append(predictor.export(logits, grid))
            self.probabilities.append(predictor.export_probabilities(logits, grid))
            assert self.labels[-1].shape == image.shape[1:]
        self._what = f"{name}, {', '.join(path.name.partition('_0000')[0] for path in paths)}"

    def compare_labels(self, theirs: dict[str, Any], sums: str, at_most: float, compare: Compare) -> None:
        wanted = [theirs[f"{sums}/{number}/labels"] for number in range(len(self.labels))]
        different = sum(int((ours != one).sum()) for ours, one in zip(self.labels, wanted, strict=True))
        voxels = sum(one.size for one in wanted)
        classes = sorted({int(value) for one in wanted for value in np.unique(one)})
        assert len(classes) > 1
        what = f"labels {classes} of {self._what}, {sums} sums: {different} of {voxels} voxels differ; share"
        compare(what, different / voxels, at_most)

    def compare_probabilities(
        self, theirs: dict[str, Any], sums: str, at_most: float, compare: Compare
    ) -> None:
        largest = max(
            float(np.abs(ours - theirs[f"{sums}/{number}/probabilities"]).max())
            for number, ours in enumerate(self.probabilities)
        )
        compare(f"probabilities of {self._what}, {sums} sums", largest, at_most)


def test_trained_model(
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Compare,
    plan_request: Callable[..., Plan],
    tmp_path: Path,
) -> None:
    fingerprint, dataset = (
        json.loads((MODEL / file).read_text()) for file in ("dataset_fingerprint.json", "dataset.json")
    )
    plan = plan_request("ExperimentPlanner", fingerprint, dataset)
    paths = drawn_images(rng, "hippocampus", NUM_TRAINED)
    question = {"model": str(MODEL), "images": [str(path) for path in paths]}
    _, theirs = ask_peer("whole_case", question)
    ours = Cases(plan, "3d_fullres", MODEL, paths, tmp_path)
    ours.compare_labels(theirs, "own", SHARE_LIMIT, compare)
    ours.compare_probabilities(theirs, "own", PROBABILITY_LIMIT, compare)


@pytest.mark.parametrize(("dataset_name", "name", "count"), [("acdc", "2d", 1), ("nuclei_2d", "2d", 2)])
def test_drawn_weights(
    dataset_name: str,
    name: str,
    count: int,
    ask_peer: Callable[..., Any],
    narrow: Callable[..., Plan],
    rng: np.random.Generator,
    compare: Compare,
    plan_request: Callable[..., Plan],
    exported: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    recorded = GOLDEN / "a_preprocessing" / dataset_name
    fingerprint, dataset = (
        json.loads((recorded / file).read_text()) for file in ("dataset_fingerprint.json", "dataset.json")
    )
    plan = narrow(plan_request("ExperimentPlanner", fingerprint, dataset), sums="float32")
    paths = drawn_images(rng, dataset_name, count)
    model = tmp_path / "theirs"
    write = {
        "folder": str(model),
        "plans": exported(plan, "Dataset001_Ours"),
        "dataset": dataset,
        "name": name,
        "seed": int(rng.integers(2**31)),
        "mirror_axes": [0, 1],
    }
    question = {"model": str(model), "images": [str(path) for path in paths], "write": write, "exact": True}
    _, theirs = ask_peer("whole_case", question)
    ours = Cases(plan, name, model, paths, tmp_path / "ours")
    ours.compare_labels(theirs, "own", SHARE_LIMIT, compare)
    ours.compare_labels(theirs, "exact", EXACT_SHARE_LIMIT, compare)
    ours.compare_probabilities(theirs, "exact", EXACT_PROBABILITY_LIMIT, compare)
