from __future__ import annotations

import struct
from pathlib import Path

import pytest
import SimpleITK as sitk
from nnrules.errors import ImageError
from nnrules.image_integrity import check_complete
from nnrules.image_io import read_image


def tiff(*, order: str = "<", is_big: bool = False, num_strips: int = 1) -> bytes:
    """A grey TIFF of 6 rows and 4 columns whose page comes before its voxels."""
    entry, next_page = ("HHQQ", "Q") if is_big else ("HHII", "I")
    long_type = 16 if is_big else 4
    rows = 6 // num_strips
    head = 16 if is_big else 8
    num_tags = 9
    page = struct.calcsize(order + ("Q" if is_big else "H")) + num_tags * struct.calcsize(order + entry)
    lists_at = head + page + struct.calcsize(order + next_page)
    width = struct.calcsize(order + next_page)
    voxels_at = lists_at + (2 * num_strips * width if num_strips > 1 else 0)
    offsets = [voxels_at + strip * rows * 4 for strip in range(num_strips)]
    lengths = [rows * 4] * num_strips
    several = num_strips > 1
    tags = [
        (256, 3, 1, 4),
        (257, 3, 1, 6),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, long_type, num_strips, lists_at if several else offsets[0]),
        (277, 3, 1, 1),
        (278, 3, 1, rows),
        (279, long_type, num_strips, lists_at + num_strips * width if several else lengths[0]),
    ]
    magic = b"II" if order == "<" else b"MM"
    content = magic + struct.pack(
        order + ("HHHQ" if is_big else "HI"), *((43, 8, 0, 16) if is_big else (42, 8))
    )
    content += struct.pack(order + ("Q" if is_big else "H"), num_tags)
    for tag, kind, count, value in tags:
        # A short stands left in its field.
        shift = 8 * (width - 2) if kind == 3 and order == ">" else 0
        content += struct.pack(order + entry, tag, kind, count, value << shift)
    content += struct.pack(order + next_page, 0)
    if several:
        content += struct.pack(f"{order}{num_strips}{next_page}", *offsets)
        content += struct.pack(f"{order}{num_strips}{next_page}", *lengths)
    return content + bytes(range(24))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("num_strips", [1, 3])
def test_tiff_strips_lie_within_the_file(tmp_path: Path, order: str, is_big: bool, num_strips: int) -> None:
    path = tmp_path / "a.tif"
    content = tiff(order=order, is_big=is_big, num_strips=num_strips)
    path.write_bytes(content)
    array, _ = read_image([path])
    assert array.ravel().tolist() == list(range(24))
    for length in range(8, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match=r"cut off"):
            check_complete(path, ".tif")


def test_tiff_pages_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    content = bytearray(tiff())
    struct.pack_into("<I", content, 8 + 2 + 9 * 12, 8)  # the next page is this one
    path.write_bytes(bytes(content))
    check_complete(path, ".tif")


def test_what_is_not_understood_is_left_to_simpleitk(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"no tiff at all")
    check_complete(path, ".tif")
    path = tmp_path / "a.mhd"
    for lines in (
        "NDims = 3\nElementType = MET_ODD\nElementDataFile = LOCAL\n",
        "NDims = 3\nElementType = MET_UCHAR\nElementDataFile = LIST\n",
        "NDims = 3\nElementType = MET_UCHAR\nElementDataFile = slice%03d.raw 1 3 1\n",
        "NDims = 3\nElementType = MET_UCHAR\nDimSize = a b c\nElementDataFile = LOCAL\n",
        "NDims = 3\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n",
    ):
        path.write_text(lines)
        check_complete(path, ".mhd")


def test_metaimage_with_several_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.Image((5, 4, 3), sitk.sitkVectorInt16, 2), str(path))
    check_complete(path, ".mha")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match="cut off"):
        check_complete(path, ".mha")


def test_a_raw_file_that_is_too_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mhd"
    sitk.WriteImage(sitk.Image((5, 4, 3), sitk.sitkInt16), str(path))
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(ImageError, match=r"a\.raw: the file is cut off; got 119 bytes; expected 120 bytes"):
        check_complete(path, ".mhd")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for ending in (".nii", ".nii.gz", ".tif", ".mha", ".png"):
        with pytest.raises(ImageError, match=f"none{ending}"):
            check_complete(tmp_path / f"none{ending}", ending)
