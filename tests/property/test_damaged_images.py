"""Whatever bytes an image file holds, its reader answers with an ImageError or with a result."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import ImageError
from nnrules.image_integrity import check_complete, count_hidden_values
from nnrules.nifti_shear import shear_degrees

ENDINGS = [".nii", ".nii.gz", ".tif", ".mha", ".png"]


@cache
def valid_bytes(ending: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        array = np.arange(60, dtype=np.uint8).reshape((3, 4, 5) if ending != ".png" else (6, 10))
        if ending.startswith(".nii"):
            array = array.astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        return path.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_and_missing_bytes(ending: str, data: st.DataObject) -> None:
    content = bytearray(valid_bytes(ending))
    if ending == ".nii.gz" and data.draw(st.booleans(), label="damage the unpacked bytes"):
        content = bytearray(gzip.decompress(bytes(content)))
    # Headers decide most, and they stand first; TIFF keeps its own behind the voxels.
    places = st.integers(0, len(content) - 1) | st.integers(0, min(400, len(content) - 1))
    for place in data.draw(st.lists(places, max_size=4), label="places"):
        content[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    content = content[: data.draw(st.integers(0, len(content)), label="length")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        path.write_bytes(bytes(content))
        with contextlib.suppress(ImageError):
            check_complete(path, ending)
        with contextlib.suppress(ImageError):
            num_nan, num_infinite = count_hidden_values(path, ending)
            assert 0 <= num_nan + num_infinite <= 60 or ending not in (".nii", ".nii.gz")
        assert 0 <= shear_degrees(path) <= 90
