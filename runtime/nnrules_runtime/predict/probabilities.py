"""Files of probabilities, ``CASE.npz``: what validation and prediction write, and the choice of a model reads."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnrules.axes import canonical_axes
from nnrules.image_io import Geometry

from nnrules_runtime.files import atomic_file
from nnrules_runtime.predict.export_values import Box
from nnrules_runtime.preprocess.reading import CaseReader

__all__ = ["box_in_file", "write_probabilities"]

Array = npt.NDArray[Any]


def write_probabilities(
    path: Path, probabilities: Array, box: Box | None, *, reader: CaseReader, in_file: Geometry
) -> None:
    """Write the probabilities of a case.

    The file has ``probabilities`` ``(K, z, y, x)`` and, where they cover a part of the image only, ``box``
    ``(3, 2)``: the first voxel of the part and one past its last; all in the axes of the image's file.

    Args:
        path: where to; replaced as a whole.
        probabilities: ``(K, z, y, x)`` in the orientation of the plan.
        box: the part of the image that they cover, in that orientation; ``None``: the whole.
        reader: knows the orientation of the plan.
        in_file: geometry of the image's file.

    Raises:
        RunError: the file cannot be written.
    """
    arrays = {"probabilities": reader.as_in_file(probabilities, in_file)}
    if box is not None:
        arrays["box"] = box_in_file(box, in_file, is_canonical=reader.is_canonical)
    # The fastest level, as probabilities are mostly 0 and 1.
    with (
        atomic_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def box_in_file(box: Box, in_file: Geometry, *, is_canonical: bool) -> npt.NDArray[np.int64]:
    """First voxel and one past the last, ``(3, 2)``, in the file's axes z, y, x.

    Args:
        box: in the orientation of the plan.
        in_file: geometry of the file.
        is_canonical: whether that orientation is the closest RAS; else it is that of the file.
    """
    edges = [(part.start, part.stop) for part in box]
    if not is_canonical or in_file.dimension != 3:
        return np.array(edges, np.int64)
    mapping = canonical_axes(in_file.direction_xyz)
    turned = list(edges)
    for axis, (start, stop) in enumerate(edges):
        size = in_file.shape[mapping.order[axis]]
        turned[mapping.order[axis]] = (size - stop, size - start) if mapping.flips[axis] else (start, stop)
    return np.array(turned, np.int64)
