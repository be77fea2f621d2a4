"""How an export is cut into tiles, and how many threads fit into the memory that it may take."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from nnrules.errors import Problem, RunError

from nnrules_runtime.predict.export_values import Box
from nnrules_runtime.resampling.operators import AxisOperator
from nnrules_runtime.resampling.threads import each

__all__ = [
    "FIXED_BYTES",
    "each_tile",
    "fitting_tile",
    "grid_bytes",
    "scratch_bytes",
    "threads_within",
    "tile_rows",
    "tile_shape",
]

Triple = tuple[int, int, int]

FIXED_BYTES = 1 << 24
"""Parts of the prediction while its labels or ranges are found, one a thread, some copies of 2**20 values each."""

_LARGEST_TILE = (16, 16, 32)
_SMALLEST_EDGE = 4


def grid_bytes(num_outputs: int, network_shape: Sequence[int]) -> int:
    """Bytes of the number of an output for each voxel of the network's grid."""
    return int(np.prod(network_shape, dtype=np.int64)) * (1 if num_outputs <= 256 else 2)


def tile_rows(extent: Box, tile: Triple) -> Iterator[list[Box]]:
    """A box in tiles, a list for each row of tiles."""
    edges = [
        [slice(start, min(start + edge, part.stop)) for start in range(part.start, part.stop, edge)]
        for part, edge in zip(extent, tile, strict=True)
    ]
    for depth, row in itertools.product(edges[0], edges[1]):
        yield [(depth, row, column) for column in edges[2]]


def each_tile(action: Callable[[Box], None], rows: Iterator[list[Box]], threads: int) -> None:
    """Call ``action`` on every tile, a row of tiles in a thread."""

    def row(boxes: list[Box]) -> None:
        for box in boxes:
            action(box)

    each(row, rows, threads)


def scratch_bytes(num_outputs: int, operators: Sequence[AxisOperator], tile: Triple) -> int:
    """Most bytes of scratch that one thread takes for a tile: the part read, and two stages of interpolation."""
    read = product = 1
    for operator, edge in zip(operators, tile, strict=True):
        starts = range(0, operator.size_out, edge)
        spans = (operator.span(at, min(at + edge, operator.size_out)) for at in starts)
        widest = max(last - first for first, last in spans)
        read *= widest
        product *= max(min(edge, operator.size_out), widest)
    # float32: as read, converted and activated; before and after a product; rounded. Labels are small beside them.
    return 4 * num_outputs * (3 * read + 3 * product)


def tile_shape(num_outputs: int, operators: Sequence[AxisOperator], limit: int) -> Triple:
    """The largest tile whose scratch stays within ``limit`` bytes; the smallest one if none does."""
    return fitting_tile(lambda tile: scratch_bytes(num_outputs, operators, tile), limit)


def fitting_tile(cost: Callable[[Triple], int], limit: int) -> Triple:
    """The largest tile that costs ``limit`` bytes at most; the smallest one if none does."""
    tile = list(_LARGEST_TILE)
    while cost((tile[0], tile[1], tile[2])) > limit:
        longest = int(np.argmax(tile))
        if tile[longest] <= _SMALLEST_EDGE:
            break
        tile[longest] //= 2
    return tile[0], tile[1], tile[2]


def threads_within(memory_bytes: int, fixed: int, each_bytes: int, threads: int, where: str) -> int:
    """As many threads as fit into the memory.

    Args:
        memory_bytes: most bytes to take.
        fixed: bytes that do not depend on the number of threads.
        each_bytes: bytes that a thread takes.
        threads: most threads.
        where: the case, for errors.

    Raises:
        RunError: not even one fits.
    """
    fitting = max(1, min(threads, (memory_bytes - fixed) // each_bytes))
    total = fixed + fitting * each_bytes
    if total > memory_bytes:
        raise RunError(
            Problem(
                where=where,
                what="the export does not fit into the memory that it was given",
                got=f"{memory_bytes} bytes",
                expected=f"at least {total} bytes",
                fix="Allow more memory, or predict fewer cases at once.",
            )
        )
    return fitting
