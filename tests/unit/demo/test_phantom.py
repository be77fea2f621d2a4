"""Phantoms: the same voxels each time, right geometry, and labels that can be learned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from nnrules.dataset import load_dataset
from nnrules.demo.phantom import PHANTOM_KINDS, phantom_case, write_phantom
from nnrules.errors import NnrulesError, UsageError
from nnrules.image_io import read_image, read_label

KINDS = list(PHANTOM_KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_dataset_reads_back_as_it_was_made(tmp_path, kind) -> None:
    dataset = load_dataset(write_phantom(tmp_path / "set", kind, num_cases=2))

    recipe = PHANTOM_KINDS[kind]
    assert dataset.name == recipe.dataset_name
    assert dataset.channel_names == recipe.channel_names
    assert dataset.labels == recipe.labels
    assert dataset.num_training == len(dataset.cases) == 2
    for index, case in enumerate(dataset.cases):
        made = phantom_case(kind, index)
        channels, geometry = read_image(case.image_paths)
        labels, label_geometry = read_label(case.label_path)
        assert case.id == made.id
        assert np.array_equal(channels, made.channels)
        assert np.array_equal(labels, made.labels)
        assert geometry.shape == made.geometry.shape
        assert geometry.spacing == made.geometry.spacing  # multiples of 1/16 mm: files hold them exactly
        assert geometry.orientation == label_geometry.orientation == "LPS"
        # NIfTI stores the rotation as a quaternion of 32-bit floats.
        np.testing.assert_allclose(geometry.direction_xyz, made.geometry.direction_xyz, atol=1e-6)
        np.testing.assert_allclose(geometry.origin_xyz, made.geometry.origin_xyz, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes_on_every_run(tmp_path, kind) -> None:
    def digests(name: str, **options) -> dict[str, str]:
        folder = write_phantom(tmp_path / name, kind, **options).parent
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.nii.gz")
        }

    once = digests("once", num_cases=1)
    assert digests("again", num_cases=1) == once
    assert once.items() <= digests("more", num_cases=3).items()
    assert not set(digests("other", num_cases=1, seed=1).values()) & set(once.values())


@pytest.mark.parametrize("kind", KINDS)
def test_each_label_occurs_and_cases_differ(kind) -> None:
    cases = [phantom_case(kind, index) for index in range(PHANTOM_KINDS[kind].num_cases)]

    for value in PHANTOM_KINDS[kind].labels.values():
        present = [case for case in cases if (case.labels == value).any()]
        assert len(present) >= 0.75 * len(cases)
    assert len({case.geometry.shape for case in cases}) > 1
    assert len({case.geometry.spacing for case in cases}) > 1
    assert len({case.id for case in cases}) == len(cases)
    for case in cases:
        assert case.channels.shape == (len(PHANTOM_KINDS[kind].channel_names), *case.geometry.shape)
        assert case.labels.shape == case.geometry.shape
        # The organs do not touch the border: nothing is cut off. The heart runs through all slices.
        inner = case.labels[:, 1:-1, 1:-1]
        assert np.count_nonzero(case.labels) == np.count_nonzero(inner)


def test_heart_is_strongly_anisotropic() -> None:
    spacing = np.array([phantom_case("heart_mr", index).geometry.spacing for index in range(10)])

    assert (spacing[:, 0] > 3 * spacing[:, 2]).all()


def test_heart_cavity_lies_inside_the_wall_of_its_slices() -> None:
    for index in range(10):
        labels = phantom_case("heart_mr", index).labels
        cavity, heart = labels == 1, labels > 0
        for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
            assert heart[np.roll(cavity, step, axis)].all()


def test_abdomen_is_in_hounsfield_units() -> None:
    for index in range(8):
        case = phantom_case("abdomen_ct", index)
        values = case.channels[0]
        corner = values[:, :3, :3]
        assert corner.mean() == pytest.approx(-1000, abs=15)  # air; the noise is cut off below it
        assert values.min() >= -1024
        assert values[case.labels == 1].mean() == pytest.approx(110, abs=6)
        assert values.max() > 300  # bone


def test_a_lesion_lies_in_the_organ_and_some_subjects_have_none() -> None:
    cases = [phantom_case("abdomen_ct", index) for index in range(8)]

    assert [bool((case.labels == 2).any()) for case in cases] == [True, True, True, False] * 2
    for case in cases:
        lesion = case.labels == 2
        for axis in range(3):
            for step in (1, -1):
                assert (case.labels[np.roll(lesion, step, axis)] > 0).all()


def test_left_is_left_in_world_coordinates() -> None:
    for index in range(12):
        case = phantom_case("brain_mr", index)
        direction = np.reshape(case.geometry.direction_xyz, (3, 3))
        for label, sign in ((1, 1), (2, -1)):  # x rises to the left
            middle_xyz = np.argwhere(case.labels == label).mean(axis=0)[::-1]
            world = case.geometry.origin_xyz + direction @ (middle_xyz * case.geometry.spacing[::-1])
            assert sign * world[0] > 15


def test_brain_is_zero_outside_in_both_channels_alike() -> None:
    case = phantom_case("brain_mr", 0)

    inside = case.channels[0] > 0
    assert 0.2 < inside.mean() < 0.6
    assert not case.channels[:, 0].any()
    # Rician noise may round a voxel of the dark ventricle down to zero, not more.
    assert (inside != (case.channels[1] > 0)).mean() < 1e-3


def test_two_scans_of_a_subject_share_its_anatomy_and_its_group(tmp_path) -> None:
    dataset = load_dataset(write_phantom(tmp_path / "set", "brain_mr", num_cases=4))
    first, second, other = (phantom_case("brain_mr", index) for index in range(3))

    assert [case.group for case in dataset.cases] == ["subject00", "subject00", "subject01", "subject01"]
    assert np.array_equal(first.labels, second.labels)
    assert not np.array_equal(first.channels, second.channels)
    assert first.labels.shape != other.labels.shape or not np.array_equal(first.labels, other.labels)


@pytest.mark.parametrize(
    ("kind", "feature"),
    [
        ("abdomen_ct", lambda channels: channels[0].astype(float)),
        ("brain_mr", lambda channels: channels[1].astype(float) / np.maximum(channels[0], 1)),
    ],
)
def test_labels_stand_out_from_their_surroundings(kind, feature) -> None:
    """A network can learn them in minutes: each label's contrast is several times the noise."""
    for index in range(4):
        case = phantom_case(kind, index)
        values = feature(case.channels)
        foreground = case.labels == 1
        shell = np.zeros_like(foreground)
        for axis in range(3):
            for step in (3, -3):
                shell |= np.roll(foreground, step, axis)
        shell &= case.labels == 0
        inside, outside = values[foreground], values[shell]
        assert abs(np.median(inside) - np.median(outside)) > 2 * inside.std()


def test_unknown_kind(tmp_path) -> None:
    with pytest.raises(
        UsageError, match=r"knee: there is no such phantom; expected heart_mr, abdomen_ct, brain_mr"
    ):
        write_phantom(tmp_path / "set", "knee")
    with pytest.raises(UsageError, match="no such phantom"):
        phantom_case("knee", 0)


@pytest.mark.parametrize("num_cases", [0, -1, 1001])
def test_number_of_cases(tmp_path, num_cases) -> None:
    with pytest.raises(UsageError, match="1 to 1000"):
        write_phantom(tmp_path / "set", "heart_mr", num_cases=num_cases)
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_another_is_left_alone(tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (
        json.loads(write_phantom(empty, "heart_mr", num_cases=1).read_text(encoding="utf-8"))["numTraining"]
        == 1
    )

    with pytest.raises(UsageError, match="in the way"):
        write_phantom(empty, "heart_mr", num_cases=1)


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnrules.demo.phantom.write_json", fail)
    with pytest.raises(NnrulesError, match="cannot be written; got No space left on device"):
        write_phantom(tmp_path / "set", "heart_mr", num_cases=1)
    assert not any(tmp_path.iterdir())


def test_a_file_in_place_of_the_parent_folder(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NnrulesError, match="cannot be written"):
        write_phantom(tmp_path / "file" / "set", "heart_mr", num_cases=1)


def test_the_current_folder_will_do(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    write_phantom(Path(), "heart_mr", num_cases=1)

    assert (folder / "dataset.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
