import numpy as np
import pytest
from nnrules.extract.crop import nonzero_box


@pytest.mark.parametrize("seed", range(20))
def test_box_of_numpy(seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((2, 5, 6, 7), np.int16)
    for channel in image:
        for _ in range(rng.integers(0, 3)):
            channel[tuple(rng.integers(0, size) for size in channel.shape)] = rng.integers(-3, 4)
    found = nonzero_box(image)
    where = np.nonzero((image != 0).any(axis=0))
    if len(where[0]):
        assert found == tuple(slice(axis.min(), axis.max() + 1) for axis in where)
    else:
        assert found == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_nan_is_not_zero():
    image = np.zeros((1, 3, 3, 3), np.float32)
    image[0, 1, 1, 1] = np.nan
    assert nonzero_box(image) == (slice(1, 2),) * 3
