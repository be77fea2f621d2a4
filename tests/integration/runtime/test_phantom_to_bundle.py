"""The phantom of the demo through everything: 2D, 3D, cascade, cross-validation, choice, postprocessing, bundle."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nnrules.cli import run
from nnrules.demo.phantom import write_phantom

pytestmark = pytest.mark.timeout(600)

CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
SHORT = (
    "--set training.epochs=1 --set training.num_iterations_per_epoch=2 "
    "--set training.num_validation_iterations_per_epoch=1 --threads 1 --workers 0 --precision float32"
)


def call(text: str) -> None:
    assert run(text.split()) == 0


def test_from_images_to_a_bundle_that_predicts(tmp_path: Path, narrow: Callable[..., None]) -> None:
    data, plan_file, work = tmp_path / "data", tmp_path / "plan.json", tmp_path / "work"
    write_phantom(data, "brain_mr", num_cases=6, num_test_cases=1)
    # So little memory that a patch sees a tenth of an image, which asks for a cascade.
    call(f"plan {data} --gpu-memory-gb 0.03 --set folds.num_folds=2 -o {plan_file}")
    plan = json.loads(plan_file.read_text())
    assert sorted(plan["configurations"]) == sorted(CONFIGURATIONS)
    narrow(plan_file)
    call(f"run all {plan_file} {data} --work {work} {SHORT} --bundle {tmp_path}/brain.nnrules --licence MIT")

    for name in CONFIGURATIONS:
        held_out = [
            {path.name for path in (work / f"models/{name}/fold_{fold}/validation").glob("*.nii.gz")}
            for fold in (0, 1)
        ]
        assert held_out[0] | held_out[1] == {path.name for path in (data / "labelsTr").iterdir()}
        # Two scans of each subject: neither is in both folds.
        subjects = [{name.partition("_")[0] for name in names} for names in held_out]
        assert not subjects[0] & subjects[1]
    empirical = json.loads((work / "empirical.json").read_text())
    candidates = [entry["members"] for entry in empirical["candidates"]]
    assert len(candidates) == 4 + 6, "each configuration and each pair"
    assert all(entry["scores"]["mean"] is not None for entry in empirical["candidates"])
    chosen = next(entry for entry in empirical["candidates"] if entry["members"] == empirical["members"])
    assert chosen["trials"] is not None
    assert len(list((work / "cross_validation").glob("*.nii.gz"))) == 6

    call(f"run predict {tmp_path}/brain.nnrules {data}/imagesTs {tmp_path}/out")
    call(f"run evaluate {plan_file} {tmp_path}/out {data}/labelsTs")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
