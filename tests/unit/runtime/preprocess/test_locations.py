"""Voxels stored for foreground sampling: how many, which, and from what."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnrules_runtime.preprocess.locations import LocationSampler
from nnrules_runtime.preprocess.prepared import ANNOTATED


def sampler(*keys, **changes):
    fields = {"takes_all": False, "min_voxels": 10, "min_share": 0.01, "seed": 1234}
    wanted = tuple((key, (-1, 0, *key[1:]) if key == ANNOTATED else key) for key in keys)
    return LocationSampler(wanted=wanted, **{**fields, **changes})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def test_number_and_class_of_the_voxels(seed, min_voxels, min_share):
    label = np.random.default_rng(seed).integers(-1, 4, (4, 9, 7)).astype(np.int16)
    found = sampler((1,), (2, 3), (9,), min_voxels=min_voxels, min_share=min_share).locate(label)
    assert (9,) not in found
    for key, voxels in found.items():
        count = int(np.isin(label, key).sum())
        assert len(voxels) == max(min(min_voxels, count), ceil(min_share * count))
        assert voxels.dtype == np.int32
        assert np.isin(label[tuple(voxels.T)], key).all()
        assert len(np.unique(voxels, axis=0)) == len(voxels)


def test_drawn_as_the_released_packages_draw():
    # nnunet 1.7.1 and nnunetv2 2.8.1: one RandomState a case; argwhere of a class; choice without replacement.
    label = np.random.default_rng(1).integers(0, 3, (6, 20, 20)).astype(np.int16)
    found = sampler((1,), (2,), min_voxels=100).locate(label)
    generator = np.random.RandomState(1234)
    for value in (1, 2):
        voxels = np.argwhere(label == value)
        expected = voxels[generator.choice(len(voxels), 100, replace=False)]
        assert np.array_equal(found[(value,)], expected)


def test_region_is_drawn_from_its_labels_one_after_the_other():
    label = np.random.default_rng(2).integers(0, 4, (6, 20, 20)).astype(np.int16)
    found = sampler((3, 1), min_voxels=50).locate(label)
    voxels = np.concatenate([np.argwhere(label == 3), np.argwhere(label == 1)])
    expected = voxels[np.random.RandomState(1234).choice(len(voxels), 50, replace=False)]
    assert np.array_equal(found[(3, 1)], expected)


def test_annotated_voxels_are_all_but_ignored_ones():
    label = np.array([[[-1, 0, 1, 2, 3, 3]]], np.int16)
    wanted = (((1,), (1,)), (ANNOTATED, (-1, 0, 1, 2)))
    found = LocationSampler(wanted=wanted, takes_all=True).locate(label)
    assert sorted(found[ANNOTATED][:, 2].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 4, 5)])
def test_all_voxels_of_a_class(shape):
    label = np.random.default_rng(4).integers(0, 2, shape).astype(np.int16)
    found = sampler((1,), takes_all=True).locate(label)
    assert np.array_equal(found[(1,)], np.argwhere(label == 1))
    assert sampler((1,)).locate(np.zeros(shape, np.int16)) == {}
