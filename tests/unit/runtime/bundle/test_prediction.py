"""A bundle predicts what its work folder predicts, to the bit, where nothing else is."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from nnrules.cli import run
from nnrules.image_io import Geometry, read_label, write_image
from nnrules.plan import Plan

from nnrules_runtime.bundle import open_bundle, write_bundle
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import choose_profile
from nnrules_runtime.select.empirical import Empirical
from nnrules_runtime.workspace import Workspace

SPACING = (1.0, 1.2, 0.9)
SCRIPT = """
    import numpy as np
    from nnrules_runtime.bundle import open_bundle
    from nnrules_runtime.predict.predictor import Predictor
    from nnrules_runtime.profile import choose_profile

    bundle = open_bundle("b.nnrules")
    profile = choose_profile(device="cpu", precision="float32", num_threads=1, num_workers=0)
    for name in bundle.members:
        predictor = Predictor(bundle.models(name), profile=profile)
        image = np.load("image.npy")
        np.save(f"{name}.npy", predictor.predict_probabilities(image, (1.0, 1.2, 0.9)))
"""


def test_predictions_are_equal_to_the_bit_in_an_empty_place(
    tmp_path: Path, plan: Plan, make_work: Callable[..., Workspace]
) -> None:
    names = ("2d", "3d_fullres")
    work = make_work(tmp_path / "work", plan, dict.fromkeys(names, (0, 1)))
    image = np.random.default_rng(0).normal(100, 20, (2, 18, 22, 20)).astype(np.float32)
    image[:, 4:9, 5:12, 6:14] += 80
    profile = choose_profile(device="cpu", precision="float32", num_threads=1, num_workers=0)
    profile.apply()
    wanted = {
        name: Predictor(work.models(name), profile=profile).predict_probabilities(image, SPACING)
        for name in names
    }
    place = tmp_path / "empty"
    place.mkdir()
    write_bundle(work, tmp_path / "b.nnrules", configurations=names, licence="MIT")
    shutil.move(tmp_path / "b.nnrules", place)
    shutil.rmtree(work.root)
    np.save(place / "image.npy", image)
    # -I: neither the folder that it runs in nor the user's environment lend any code.
    subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(SCRIPT)],
        cwd=place,
        env={"HOME": str(place), "TMPDIR": str(place)},
        check=True,
        timeout=200,
    )
    for name in names:
        assert np.array_equal(np.load(place / f"{name}.npy"), wanted[name]), name
    # Nothing was extracted.
    assert sorted(path.name for path in place.iterdir()) == [
        "2d.npy",
        "3d_fullres.npy",
        "b.nnrules",
        "image.npy",
    ]


def test_folds_of_a_bundle_predict_alone(
    tmp_path: Path, plan: Plan, make_work: Callable[..., Workspace]
) -> None:
    work = make_work(tmp_path / "work", plan, {"3d_fullres": (0, 1)})
    image = np.random.default_rng(1).normal(100, 20, (2, 18, 22, 20)).astype(np.float32)
    write_bundle(work, tmp_path / "b.nnrules", licence="MIT")
    bundle = open_bundle(tmp_path / "b.nnrules")
    profile = choose_profile(device="cpu", precision="float32", num_threads=1, num_workers=0)
    for fold in (0, 1):
        alone = Predictor(bundle.models("3d_fullres", [fold]), profile=profile, mirroring=False)
        wanted = Predictor(work.root, folds=[fold], profile=profile, mirroring=False)
        assert np.array_equal(alone.predict(image, SPACING), wanted.predict(image, SPACING))


def test_the_command_predicts_alike_in_an_empty_place(
    tmp_path: Path, plan: Plan, make_work: Callable[..., Workspace], make_choice: Callable[..., Empirical]
) -> None:
    """The chosen pair with its postprocessing, from the work folder and from the bundle alone."""
    work = make_work(tmp_path / "work", plan, {"2d": (0, 1), "3d_fullres": (0, 1)})
    choice = make_choice(plan, ("2d", "3d_fullres"), (0, 1))
    choice.save(work.empirical)
    place = tmp_path / "empty"
    (place / "images").mkdir(parents=True)
    image = np.random.default_rng(0).normal(100, 20, (2, 18, 22, 20)).astype(np.float32)
    geometry = Geometry(
        shape=(18, 22, 20), spacing=SPACING, origin_xyz=(1.0, 2.0, 3.0), direction_xyz=tuple(np.eye(3).ravel()),
        dimension=3, num_channels=1,
    )  # fmt: skip
    for channel in (0, 1):
        write_image(place / "images" / f"a_000{channel}.nii.gz", image[channel], geometry)
    options = ["--device", "cpu", "--precision", "float32", "--threads", "1"]
    for postprocessing in ("--postprocessing", "--no-postprocessing"):
        source = ["run", "predict", str(work.root), str(place / "images"), str(tmp_path / "wanted")]
        assert run([*source, *options, postprocessing]) == 0
        wanted, _ = read_label(tmp_path / "wanted" / "a.nii.gz")
        assert run(["run", "bundle", str(work.root), str(place / "b.nnrules"), "--licence", "MIT"]) == 0
        work.root.rename(tmp_path / "gone")
        command = ["run", "predict", "b.nnrules", "images", "out", *options, postprocessing]
        subprocess.run(
            [sys.executable, "-I", "-m", "nnrules", *command],
            cwd=place,
            env={"HOME": str(place), "TMPDIR": str(place)},
            check=True,
            timeout=200,
        )
        (tmp_path / "gone").rename(work.root)
        found, _ = read_label(place / "out" / "a.nii.gz")
        assert np.array_equal(found, wanted), postprocessing
