"""How far a patch may reach over the border of its image: the range of its start, one axis at a time.

Legend: S edge of the image, I edge of the patch as it is read, F edge of the patch after augmentation (I >= F).
The overhang n is I - F, so that the final patch reaches the border; where the image is too small for even that
(S + n < I) it is I - S.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["StartLimits", "overhang", "pad_then_crop", "slices"]


class StartLimits(NamedTuple):
    """The starts that a patch may have along one axis; all limits are included.

    Attributes:
        lowest: of any patch.
        highest_random: of a patch at a random position.
        highest_forced: of a forced patch, where it is limited on this side, too.
    """

    lowest: int
    highest_random: int
    highest_forced: int

    def draw(self, random: np.random.Generator) -> int:
        """A random start."""
        return int(random.integers(self.lowest, self.highest_random, endpoint=True))

    def around(self, voxel: int, edge: int, *, both: bool) -> int:
        """The start of a forced patch of this edge, centred on a voxel as far as the limits allow."""
        start = max(self.lowest, voxel - edge // 2)
        return min(start, self.highest_forced) if both else start


def _overhang_voxels(image: int, initial: int, final: int) -> int:
    margin = initial - final
    return initial - image if margin + image < initial else margin


def overhang(image: int, initial: int, final: int) -> StartLimits:
    """The patch overhangs by half of n; by one voxel more on both sides where n is odd.

    nnunetv2 2.8.1, nnUNetDataLoader.get_bbox; nnunet 1.7.1, DataLoader3D and DataLoader2D.
    """
    margin = _overhang_voxels(image, initial, final)
    highest = image + margin // 2 + margin % 2 - initial
    return StartLimits(-margin // 2, highest, highest)


def pad_then_crop(image: int, initial: int, final: int) -> StartLimits:
    """The image is padded to S + n, an odd voxel behind it, and the patch lies inside of that.

    A random start never is the last one of several; a forced start may be (nnunet 1.0, DataLoader2D).
    """
    margin = max(_overhang_voxels(image, initial, final), initial - image)
    before = margin // 2
    last = image + margin - initial
    return StartLimits(-before, max(last - 1, 0) - before, last - before)


def slices(image: int) -> StartLimits:
    """The first axis of a 2D patch: any slice of the image."""
    return StartLimits(0, image - 1, image - 1)
