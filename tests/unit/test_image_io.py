from __future__ import annotations

import gzip
import json
import logging
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnrules.errors import ImageError
from nnrules.image_geometry import to_canonical
from nnrules.image_integrity import count_hidden_values
from nnrules.image_io import (
    SUPPORTED_ENDINGS,
    Geometry,
    file_ending_of,
    read_geometry,
    read_image,
    read_label,
    write_image,
)
from nnrules.nifti_file import count_nonfinite, read_nifti_header
from nnrules.nifti_shear import shear_degrees, write_unsheared

RNG = np.random.default_rng(1)
GEOMETRY = Geometry(
    shape=(2, 3, 4),
    spacing=(3.0, 0.5, 0.75),
    origin_xyz=(-10.0, 20.0, 30.5),
    direction_xyz=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    dimension=3,
    num_channels=1,
)
FLAT = Geometry(
    shape=(1, 3, 4),
    spacing=(999.0, 1.0, 1.0),
    origin_xyz=(0.0, 0.0),
    direction_xyz=(1.0, 0.0, 0.0, 1.0),
    dimension=2,
    num_channels=1,
)
VOLUME_ENDINGS = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"]


def save(path: Path, array: Any, *, vector: bool = False, spacing: Any = None, direction: Any = None) -> Path:
    image = sitk.GetImageFromArray(np.asarray(array), isVector=vector)
    if spacing:
        image.SetSpacing(spacing)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def noise(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    return RNG.integers(0, 200, shape).astype(dtype)


def nifti_with_sform(path: Path, rows: Any, *, qform_code: int = 0) -> Path:
    """A NIfTI-1 file of 2×3×4 voxels with the given sform."""
    plain = path.with_name("plain.nii")
    save(plain, noise((2, 3, 4)))
    content = bytearray(plain.read_bytes())
    struct.pack_into("<2h", content, 252, qform_code, 1)
    struct.pack_into("<3f", content, 80, *np.linalg.norm(np.array(rows)[:, :3], axis=0))
    struct.pack_into("<12f", content, 280, *np.ravel(rows))
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "float64"])
def test_volume_round_trip(tmp_path: Path, ending: str, dtype: str) -> None:
    path = tmp_path / f"a{ending}"
    array = noise((2, 3, 4), dtype)
    write_image(path, array, GEOMETRY)
    read, geometry = read_image([path])
    assert read.shape == (1, 2, 3, 4)
    assert read.dtype == np.dtype(dtype)
    assert np.array_equal(read[0], array)
    assert read.flags.c_contiguous
    assert read.flags.writeable
    assert geometry == read_geometry(path)
    assert geometry.shape == GEOMETRY.shape
    # NIfTI holds geometry as float32.
    assert geometry.spacing == pytest.approx(GEOMETRY.spacing, rel=1e-6)
    assert geometry.origin_xyz == pytest.approx(GEOMETRY.origin_xyz, rel=1e-6)
    assert geometry.direction_xyz == pytest.approx(GEOMETRY.direction_xyz, abs=1e-6)
    assert geometry.orientation == "RAS"


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_several_channels_round_trip(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    array = noise((5, 2, 3, 4), "float32")
    write_image(path, array, GEOMETRY)
    read, geometry = read_image([path])
    assert np.array_equal(read, array)
    assert geometry.num_channels == 5
    assert geometry == read_geometry(path)
    assert geometry.spacing == pytest.approx(GEOMETRY.spacing, rel=1e-6)
    assert geometry.direction_xyz == pytest.approx(GEOMETRY.direction_xyz, abs=1e-6)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_components_are_channels(tmp_path: Path, ending: str) -> None:
    array = noise((2, 3, 4, 3), "float32")
    path = save(tmp_path / f"a{ending}", array, vector=True)
    read, geometry = read_image([path])
    assert np.array_equal(read, np.moveaxis(array, -1, 0))
    assert geometry.num_channels == read_geometry(path).num_channels == 3


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_components_of_a_fourth_axis(tmp_path: Path, ending: str) -> None:
    array = noise((2, 3, 4, 5, 2), "float32")  # (T, Z, Y, X, components)
    path = save(tmp_path / f"a{ending}", array, vector=True)
    read, geometry = read_image([path])
    assert np.array_equal(read, np.moveaxis(array, -1, 1).reshape(4, 3, 4, 5))
    assert geometry.num_channels == 4
    assert geometry.shape == (3, 4, 5)


@pytest.mark.parametrize(("components", "expected"), [(1, 1), (3, 3), (4, 3)])
def test_png_of_grey_rgb_and_rgba(tmp_path: Path, components: int, expected: int) -> None:
    array = noise((3, 4, components))
    path = save(tmp_path / "a.png", array if components > 1 else array[..., 0], vector=components > 1)
    read, geometry = read_image([path])
    assert np.array_equal(read, np.moveaxis(array[..., :expected], -1, 0)[:, None])
    assert geometry == replace(FLAT, num_channels=expected) == read_geometry(path)


def test_png_of_grey_with_alpha_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise((3, 4, 2)), vector=True)
    with pytest.raises(ImageError, match="grey with transparency"):
        read_image([path])


def test_png_ignores_resolution(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise((3, 4)), spacing=(0.2, 0.3))
    assert read_geometry(path).spacing == (999.0, 1.0, 1.0)


@pytest.mark.parametrize("ending", [".tif", ".tiff"])
def test_tiff_2d(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a{ending}", noise((3, 4)), spacing=(0.2, 0.3))
    assert read_geometry(path) == FLAT


@pytest.mark.parametrize("name", ["a_0000.tif", "a.tif"])
def test_tiff_3d_takes_its_spacing_from_json(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, noise((2, 3, 4)), spacing=(0.2, 0.3, 0.4))
    assert read_geometry(path).spacing == (1.0, 1.0, 1.0)
    (tmp_path / "a.json").write_text('{"spacing": [50, 4.5, 4]}')
    assert read_geometry(path).spacing == (50.0, 4.5, 4.0)


@pytest.mark.parametrize(
    "content", ["[1]", '{"spacing": [1, 2]}', '{"spacing": [1, 0, 1]}', '{"spacing": [1, 1, true]}', "{"]
)
def test_tiff_with_a_wrong_json(tmp_path: Path, content: str) -> None:
    path = save(tmp_path / "a.tif", noise((2, 3, 4)))
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ImageError, match=r"a\.json"):
        read_geometry(path)


def test_tiff_3d_round_trip_writes_the_json(tmp_path: Path) -> None:
    array = noise((2, 3, 4), "int64")
    write_image(tmp_path / "a.tif", array, GEOMETRY)
    assert json.loads((tmp_path / "a.json").read_text()) == {"spacing": [3.0, 0.5, 0.75]}
    read, geometry = read_image([tmp_path / "a.tif"])
    assert np.array_equal(read[0], array)
    assert geometry.spacing == GEOMETRY.spacing


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_2d_with_a_spacing(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a{ending}", noise((3, 4)), spacing=(0.5, 0.25))
    geometry = read_geometry(path)
    assert geometry.shape == (1, 3, 4)
    assert geometry.spacing == (999 * 0.5, 0.25, 0.5)
    assert geometry.dimension == 2
    assert geometry.orientation == ""
    assert read_image([path])[0].shape == (1, 1, 3, 4)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_2d_round_trip(tmp_path: Path, ending: str, channels: int) -> None:
    array = noise((channels, 1, 3, 4))
    write_image(tmp_path / f"a{ending}", array, FLAT)
    read, geometry = read_image([tmp_path / f"a{ending}"])
    assert np.array_equal(read, array)
    assert geometry == replace(FLAT, num_channels=channels)


def test_one_slice_in_3d_stays_3d(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", noise((1, 3, 4)), spacing=(1, 1, 7))
    assert read_geometry(path).spacing == (7.0, 1.0, 1.0)
    assert read_geometry(path).dimension == 3


def test_files_are_joined_in_their_common_type(tmp_path: Path) -> None:
    first, second = noise((2, 3, 4)), noise((2, 3, 4), "float32")
    paths = [save(tmp_path / "a_0000.nrrd", first), save(tmp_path / "a_0001.nrrd", second)]
    array, geometry = read_image(paths)
    assert array.dtype == np.float32
    assert np.array_equal(array, np.stack([first, second]))
    assert geometry.num_channels == 2


def test_every_bad_channel_is_named(tmp_path: Path) -> None:
    good = save(tmp_path / "a_0000.nrrd", noise((2, 3, 4)))
    smaller = save(tmp_path / "a_0001.nrrd", noise((2, 3, 3)))
    with pytest.raises(ImageError) as caught:
        read_image([good, smaller, tmp_path / "a_0002.nrrd"])
    assert [problem.what for problem in caught.value.problems] == [
        "a channel has another shape than the first one",
        "no such file",
    ]


def test_no_paths() -> None:
    with pytest.raises(ValueError, match="at least one"):
        read_image([])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_label_keeps_its_integer_type(tmp_path: Path, dtype: str) -> None:
    values = noise((2, 3, 4), dtype)
    label, geometry = read_label(save(tmp_path / "a.nrrd", values))
    assert label.dtype == np.dtype(dtype)
    assert label.shape == (2, 3, 4)
    assert np.array_equal(label, values)
    assert geometry.num_channels == 1


@pytest.mark.parametrize(("value", "dtype"), [(-3, np.int32), (1 << 40, np.int64)])
def test_label_of_whole_floats(tmp_path: Path, value: int, dtype: type) -> None:
    values = np.full((2, 3, 4), float(value))
    label, _ = read_label(save(tmp_path / "a.nrrd", values))
    assert label.dtype == dtype
    assert (label == value).all()


def test_label_with_fractions_names_them(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 4), np.float32)
    values[0, 0, :3] = (0.25, 1.5, np.nan)
    with pytest.raises(ImageError, match=r"0\.25, 1\.5, nan \(3 of 24 voxels\)"):
        read_label(save(tmp_path / "a.nrrd", values))


def test_label_in_colours(tmp_path: Path) -> None:
    grey = np.repeat(noise((3, 4, 1)), 3, axis=-1)
    assert np.array_equal(read_label(save(tmp_path / "a.png", grey, vector=True))[0][0], grey[..., 0])
    grey[0, 0, 0] += 1
    with pytest.raises(ImageError, match="3 channels that differ"):
        read_label(save(tmp_path / "b.png", grey, vector=True))


def test_five_axes_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha", np.zeros((2, 2, 2, 2, 2), np.uint8))
    with pytest.raises(ImageError, match="5 axes"):
        read_geometry(path)


def test_complex_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.complex64))
    with pytest.raises(ImageError, match="magnitude and phase"):
        read_image([path])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("x\nITK ERROR: Image(0x1): Failed to allocate memory")]
)
def test_too_little_memory_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(image: Any) -> None:
        raise error

    path = save(tmp_path / "a.nrrd", noise((2, 3, 4)))
    monkeypatch.setattr(sitk, "GetArrayFromImage", fail)
    with pytest.raises(ImageError, match=r"not enough memory for the image; got (MemoryError|Failed to)"):
        read_image([path])


def test_missing_unknown_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_geometry(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()
    with pytest.raises(ImageError, match="not a file"):
        read_geometry(tmp_path / "b.nii.gz")
    with pytest.raises(ImageError, match=r"unknown kind.*expected one of \.nii\.gz, \.nii"):
        read_geometry(tmp_path / "a.jpg")


def test_endings() -> None:
    assert set(SUPPORTED_ENDINGS) == {".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".tif", ".tiff", ".png"}
    assert file_ending_of(Path("x/A.NII.GZ")) == ".nii.gz"
    assert file_ending_of(Path("a.gz")) is None


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".png"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.4, 0.8])
def test_cut_off_files_are_refused_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ending: str, compress: bool, kept: float
) -> None:
    array = RNG.integers(0, 255, (20, 30, 40) if ending != ".png" else (60, 80)).astype(np.uint8)
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), compress)
    read_image([path])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ImageError, match=f"a{ending}"):
        read_image([path])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", SUPPORTED_ENDINGS)
def test_junk_is_refused_quietly_and_always_in_the_same_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"this is no image\n" * 100)
    messages = set()
    for _ in range(2):
        for read in (read_geometry, read_label):
            with pytest.raises(ImageError) as caught:
                read(path)
            messages.add(str(caught.value))
    assert not any("0x" in message for message in messages)
    assert len(messages) <= 2
    assert capfd.readouterr() == ("", "")


def test_metaimage_without_its_raw_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mhd"
    write_image(path, noise((2, 3, 4)), GEOMETRY)
    read_image([path])
    next(file for file in tmp_path.iterdir() if file != path).unlink()
    with pytest.raises(ImageError, match="voxels is missing"):
        read_geometry(path)


def test_nifti_in_several_gzip_members_is_whole(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", array := noise((2, 3, 4)))
    content = plain.read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(content[:360]) + gzip.compress(content[360:]))
    assert np.array_equal(read_image([path])[0][0], array)


def test_flipped_bits_break_the_checksum(tmp_path: Path) -> None:
    for dtype in ("uint8", "float32"):
        path = save(tmp_path / "a.nii.gz", noise((8, 8, 8), dtype))
        assert count_hidden_values(path, ".nii.gz") == (0, 0)
        content = bytearray(path.read_bytes())
        content[-6] ^= 0x10  # in the checksum
        path.write_bytes(bytes(content))
        with pytest.raises(ImageError, match="damaged"):
            count_hidden_values(path, ".nii.gz")
    assert count_hidden_values(path, ".nrrd") == (0, 0)  # has no checksum to compare


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_that_simpleitk_hides(tmp_path: Path, ending: str, dtype: str) -> None:
    array = np.zeros((40, 80, 120), dtype)  # over a megabyte: more than one chunk
    array.flat[[0, 7, -1]] = np.nan
    array.flat[[1, -2]] = (np.inf, -np.inf)
    path = save(tmp_path / f"a{ending}", array)
    assert np.isfinite(read_image([path])[0]).all()
    assert count_hidden_values(path, ending) == (3, 2)


def test_packing_is_seen_from_the_content(tmp_path: Path) -> None:
    array = noise((2, 3, 4))
    save(tmp_path / "a.nii", array)
    path = (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    assert np.array_equal(read_image([path])[0][0], array)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match="cut off"):
        read_image([path])


def test_nifti_2_and_big_endian_headers(tmp_path: Path) -> None:
    sizes = (3, 4, 3, 2, 1, 1, 1, 1)
    second = bytearray(544 + 24 * 4)
    struct.pack_into("<i", second, 0, 540)
    second[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into("<2h8q", second, 12, 16, 32, *sizes)
    struct.pack_into("<q", second, 168, 544)
    struct.pack_into("<2i12d", second, 344, 0, 1, *np.eye(3, 4).ravel())
    struct.pack_into("<f", second, 544 + 4, np.nan)
    first = bytearray(352 + 24 * 4)
    struct.pack_into(">i", first, 0, 348)
    struct.pack_into(">8h", first, 40, *sizes)
    struct.pack_into(">2h", first, 70, 16, 32)
    struct.pack_into(">f", first, 108, 352.0)
    struct.pack_into(">f", first, 352 + 4, np.nan)
    path = tmp_path / "a.nii"
    for content in (second, first):
        path.write_bytes(bytes(content))
        header = read_nifti_header(path)
        assert header is not None
        assert header.num_bytes == len(content)
        assert count_nonfinite(path) == (1, 0)
        path.write_bytes(bytes(content[:-1]))
        with pytest.raises(ImageError, match="cut off"):
            read_geometry(path)


def test_small_shear_is_read_with_the_nearest_axes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [[2.0, 0.004, 0, 10], [0, 2.0, 0, 20], [0, 0, 3.0, 30]]
    for name in ("a.nii.gz", "a.nii"):
        path = nifti_with_sform(tmp_path / name, rows)
        with pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(str(path))
        with caplog.at_level(logging.WARNING):
            array, geometry = read_image([path])
        assert "sheared by 0.057°" in caplog.text
        plain, _ = read_image([tmp_path / "plain.nii"])
        assert np.array_equal(array, plain)
        assert geometry == read_geometry(path)
        assert geometry.spacing == pytest.approx((3.0, 2.0, 2.0), rel=1e-5)
        assert geometry.origin_xyz == pytest.approx((-10, -20, 30))
        matrix = np.reshape(geometry.direction_xyz, (3, 3))
        assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
        write_unsheared(path, tmp_path / "copy.nii")
        header = read_nifti_header(tmp_path / "copy.nii")
        assert header is not None
        affine = np.reshape(header.sform, (3, 4))
        assert np.linalg.norm(affine[:, :3], axis=0) == pytest.approx((2, 2, 3), rel=1e-5)
        assert affine[:, 3].tolist() == [10, 20, 30]
        assert shear_degrees(path) == pytest.approx(0.0573, rel=0.01)


def test_large_shear_is_refused(tmp_path: Path) -> None:
    path = nifti_with_sform(tmp_path / "a.nii.gz", [[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    with pytest.raises(ImageError, match=r"sheared sform.*2\.9°.*at most 0\.5°"):
        read_geometry(path)


def test_a_qform_stands_in_for_a_sheared_sform(tmp_path: Path) -> None:
    rows = [[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    path = nifti_with_sform(tmp_path / "a.nii.gz", rows, qform_code=1)
    assert shear_degrees(path) == 0.0
    read_geometry(path)


def test_shear_of_files_that_are_no_nifti(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"\x1f\x8bjunk")
    assert shear_degrees(tmp_path / "a.nii.gz") == 0.0
    assert shear_degrees(tmp_path / "none.nii") == 0.0


@pytest.mark.parametrize("code", ["RAS", "LPS", "LIA", "PIR", "SAL"])
def test_canonical_equals_simpleitk(tmp_path: Path, code: str) -> None:
    image = sitk.GetImageFromArray(noise((2, 3, 4)))
    image.SetSpacing((0.75, 0.5, 3.0))
    image.SetOrigin((-10, 20, 30.5))
    image = sitk.DICOMOrient(image, code)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    label, geometry = read_label(tmp_path / "a.nrrd")
    assert geometry.orientation == code
    turned, turned_geometry = to_canonical(label, geometry)
    expected = sitk.DICOMOrient(image, "RAS")
    assert np.array_equal(turned, sitk.GetArrayFromImage(expected))
    assert turned.flags.c_contiguous
    assert turned_geometry.shape == turned.shape
    assert turned_geometry.orientation == "RAS"
    assert turned_geometry.spacing == expected.GetSpacing()[::-1]
    assert turned_geometry.origin_xyz == pytest.approx(expected.GetOrigin())
    assert turned_geometry.direction_xyz == pytest.approx(expected.GetDirection())
    channels, _ = to_canonical(np.stack([label, label + 1]), geometry)
    assert np.array_equal(channels[1], turned + 1)


def test_canonical_of_2d() -> None:
    array = noise((1, 3, 4))
    assert to_canonical(array, FLAT) == (array, FLAT)


def test_the_named_file_appears_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = []
    monkeypatch.setattr(Path, "replace", lambda self, target: replaced.append(target.name))
    write_image(tmp_path / "a.mhd", noise((2, 3, 4)), GEOMETRY)
    assert len(replaced) == 2
    assert replaced[-1] == "a.mhd"


def test_bool_and_half_are_widened(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nrrd", np.ones((2, 3, 4), bool), GEOMETRY)
    assert read_image([tmp_path / "a.nrrd"])[0].dtype == np.uint8
    write_image(tmp_path / "b.nrrd", np.ones((2, 3, 4), np.float16), GEOMETRY)
    assert read_image([tmp_path / "b.nrrd"])[0].dtype == np.float32


@pytest.mark.parametrize(("high", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_png_takes_the_narrowest_type(tmp_path: Path, high: int, dtype: type) -> None:
    write_image(tmp_path / "a.png", np.full((1, 3, 4), high, np.int64), FLAT)
    array, _ = read_image([tmp_path / "a.png"])
    assert array.dtype == dtype
    assert (array == high).all()


@pytest.mark.parametrize(
    "array", [np.full((1, 3, 4), 65536), np.full((1, 3, 4), -1), np.ones((1, 3, 4), np.float32)]
)
def test_png_refuses_what_it_cannot_hold(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"\.png cannot hold"):
        write_image(tmp_path / "a.png", array, FLAT)
    assert not list(tmp_path.iterdir())


def test_writing_refuses_another_shape(tmp_path: Path) -> None:
    for shape in [(3, 3, 4), (2, 3), (1, 1, 2, 3, 4)]:
        with pytest.raises(ImageError, match=r"\(2, 3, 4\)"):
            write_image(tmp_path / "a.nrrd", np.zeros(shape), GEOMETRY)
    with pytest.raises(ImageError, match="several slices"):
        write_image(tmp_path / "a.nrrd", np.zeros((2, 3, 4)), replace(FLAT, shape=(2, 3, 4)))


def test_failed_writing_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageError, match="cannot be written"):
        write_image(tmp_path / "none" / "a.nrrd", np.zeros((2, 3, 4)), GEOMETRY)
    path = tmp_path / "a.png"
    write_image(path, noise((1, 3, 4)), FLAT)
    before = path.read_bytes()
    with pytest.raises(ImageError, match=r"got 6; expected 1 \(grey\) or 3"):
        write_image(path, noise((6, 1, 3, 4)), FLAT)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ITK ERROR: disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(ImageError, match="cannot be written; got ITK ERROR: disk full"):
        write_image(path, noise((1, 3, 4)), FLAT)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
