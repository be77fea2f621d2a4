"""Labels of the mean of saved probabilities, without ever holding all outputs.

``CASE.npz`` holds ``probabilities`` ``(K, z, y, x)`` in the axes of the image file; where they cover only the crop,
``box`` ``(3, 2)`` has its first voxel and one past its last along each axis. Outputs are stored one after the other, so
that they can be read, averaged and compared one after the other: memory does not grow with their number.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from nnrules.errors import Problem, RunError

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.predict.export import Exporter
from nnrules_runtime.predict.export_rule import OutputRule
from nnrules_runtime.values import Section

__all__ = ["BYTES_PER_VOXEL", "Averaging"]

BYTES_PER_VOXEL = 24
"""Most memory that :meth:`Averaging.labels` takes, a voxel: an output of each of two members and their mean in four
bytes each, the largest so far (4), and label maps."""

Array = npt.NDArray[Any]
_ARRAY = "probabilities"
_BOX = "box"
_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """How a plan averages the probabilities of several models; picklable.

    Attributes:
        rule: from probabilities to labels.
        label_dtype: of the labels.
        outside_label: the label outside of the crop, where probabilities cover no more.
        dtype: the mean is rounded to it. It is formed in float32, as NumPy forms means of float16.
    """

    rule: OutputRule
    label_dtype: np.dtype[Any]
    outside_label: int
    dtype: np.dtype[Any]

    @classmethod
    def from_plan(
        cls, root: Section, configuration: str, labels: LabelSet, dtype: np.dtype[Any]
    ) -> Averaging:
        """Read how a configuration makes labels.

        Args:
            root: the plan.
            configuration: one of the members; they share the labels.
            labels: the dataset's labels.
            dtype: ``empirical.ensembles.dtype``.
        """
        exporter = Exporter.from_plan(root, root.section("configurations").section(configuration), labels)
        return cls(
            rule=exporter.rule,
            label_dtype=exporter.label_dtype,
            outside_label=exporter.outside_label,
            dtype=dtype,
        )

    def labels(self, members: Sequence[Path], shape: tuple[int, ...]) -> Array:
        """The labels of the mean of some members.

        Args:
            members: ``CASE.npz`` of each.
            shape: (z, y, x) of the image.

        Returns:
            ``(z, y, x)`` in the plan's type.

        Raises:
            RunError: a file is missing, damaged, or not of this image.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(_ProbabilityFile(path)) for path in members]
            box = _common_box(files, shape, len(self.rule.values))
            mean = _MeanOfOutputs(files, self.dtype)
            # It is read as an array would be, output by output.
            labels = self.rule.labels(cast(Array, mean), activated=True, dtype=self.label_dtype)
            mean.finish()
        if box is None:
            return labels
        whole = np.full(shape, self.outside_label, self.label_dtype)
        whole[box] = labels
        return whole


class _MeanOfOutputs:
    """The mean of several arrays ``(K, z, y, x)``, an output at a time, each read when it is asked for.

    What :meth:`OutputRule.labels` needs of an array, for a reader that goes through the outputs in order.
    """

    def __init__(self, files: Sequence[_ProbabilityFile], dtype: np.dtype[Any]) -> None:
        self.shape = files[0].shape
        self._files = files
        self._dtype = dtype
        self._number = -1
        self._current: Array | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Array]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Array:
        """One output ``(z, y, x)``, float32; the one before it is read no more."""
        if number == self._number + 1:
            self._current = None  # before the next one takes memory
            self._current, self._number = self._next(), number
        if number != self._number or self._current is None:
            raise ValueError(f"outputs are read in order, so output {number} cannot follow {self._number}")
        return self._current

    def _next(self) -> Array:
        total = self._files[0].read().astype(np.float32, copy=False)
        for file in self._files[1:]:
            total += file.read()
        total /= len(self._files)
        if self._dtype == np.float32:
            return total
        return total.astype(self._dtype).astype(np.float32)

    def finish(self) -> None:
        """Read what follows the last output: nothing, in a whole file."""
        for file in self._files:
            file.finish()


class _ProbabilityFile:
    """One ``CASE.npz``, read output by output; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self.shape: tuple[int, ...] = ()
        self.box: Array | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def __enter__(self) -> _ProbabilityFile:
        with self._stack as stack:
            try:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                self.box = _read_box(archive)
                self._stream = cast(zipfile.ZipExtFile, stack.enter_context(archive.open(f"{_ARRAY}.npy")))
                self._read_header()
            except FileNotFoundError:
                raise self._problem("the probabilities are missing", None) from None
            except _DAMAGE as exc:
                raise self._damaged(exc) from None
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _read_header(self) -> None:
        version = np.lib.format.read_magic(self._stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"version {version} of the .npy format")
        shape, is_fortran, dtype = read(self._stream)
        if is_fortran or dtype.kind != "f" or len(shape) != 4:
            raise ValueError(f"an array of {dtype} and the shape {shape}")
        self.shape, self._dtype = tuple(shape), dtype

    def read(self) -> Array:
        """The next output, ``(z, y, x)``."""
        values = np.empty(self.shape[1:], self._dtype)
        buffer = values.reshape(-1).view(np.uint8).data
        filled = 0
        try:
            while filled < len(buffer):
                count = self._stream.readinto(buffer[filled:])
                if not count:
                    raise EOFError("it ends too early")
                filled += count
        except _DAMAGE as exc:
            raise self._damaged(exc) from None
        return values

    def finish(self) -> None:
        """Read to the end, where the checksum is compared."""
        try:
            if self._stream.read(1):
                raise EOFError("there is more in it than its header says")
        except _DAMAGE as exc:
            raise self._damaged(exc) from None

    def _damaged(self, exc: Exception) -> RunError:
        return self._problem("these probabilities cannot be read", str(exc) or type(exc).__name__)

    def _problem(self, what: str, got: str | None) -> RunError:
        return RunError(
            Problem(
                where=str(self.path),
                what=what,
                got=got,
                fix="Delete the file and validate again with `nnrules run train … --probabilities`.",
            )
        )


def _read_box(archive: zipfile.ZipFile) -> Array | None:
    name = f"{_BOX}.npy"
    if name not in archive.namelist():
        return None
    box: Array = np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
    if box.shape != (3, 2) or box.dtype.kind not in "iu":
        raise ValueError(f"a box of {box.dtype} and the shape {box.shape}")
    return box


def _common_box(
    files: Sequence[_ProbabilityFile], shape: tuple[int, ...], num_outputs: int
) -> tuple[slice, ...] | None:
    """Where the probabilities lie in the image; ``None``: they cover it."""
    first = files[0]
    extent: tuple[int, ...] = shape
    if first.box is not None:
        extent = tuple(int(stop) - int(start) for start, stop in first.box)
    problems = []
    for file in files:
        if file.shape != (num_outputs, *extent) or not _is_same_box(file.box, first.box):
            expected = (num_outputs, *extent)
            problems.append((file, f"{file.shape}{_text(file.box)}", f"{expected}{_text(first.box)}"))
        elif file.box is not None and not _is_within(file.box, shape):
            problems.append((file, _text(file.box).strip(), f"a box within {shape}"))
    if problems:
        raise RunError(
            [
                Problem(
                    where=str(file.path),
                    what="these are not probabilities of this image and these labels",
                    got=got,
                    expected=expected,
                    fix="Validate all members with one plan, with `nnrules run train … --probabilities`.",
                )
                for file, got, expected in problems
            ]
        )
    if first.box is None:
        return None
    return tuple(slice(int(start), int(stop)) for start, stop in first.box)


def _is_same_box(box: Array | None, other: Array | None) -> bool:
    return (box is None) == (other is None) and (box is None or np.array_equal(box, cast(Array, other)))


def _is_within(box: Array, shape: Sequence[int]) -> bool:
    edges = np.asarray(shape)[:, None]
    return bool((box >= 0).all() and (box <= edges).all())


def _text(box: Array | None) -> str:
    return "" if box is None else " in the box " + str(box.tolist())
