"""Recipes of all packs, the order of steps, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
from nnrules.dataset import load_dataset
from nnrules.errors import ImageError, PlanError
from nnrules.plan import Plan
from scipy import ndimage

from nnrules_runtime.preprocess.prepared import ANNOTATED

SPACING = (3.0, 1.0, 1.2)


def changed(plan: Plan, **values) -> Plan:
    """A plan with other values; ``a__b`` stands for ``a.b``."""
    document = copy.deepcopy(dict(plan.document))
    for path, value in values.items():
        *parents, last = path.split("__")
        place = document
        for name in parents:
            place = place[int(name) if name.isdigit() else name]
        place[last] = value
    return Plan(document)


def made(shape=(14, 40, 36), seed=0):
    """A ball in a margin of zeros, with a hole, and a label that reaches out of it."""
    generator = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1.2 : 1.2 : shape[0] * 1j, -1.2 : 1.2 : shape[1] * 1j, -1.2 : 1.2 : shape[2] * 1j]
    radius = np.sqrt(z**2 + y**2 + x**2)
    image = np.where(radius < 1, 300 + generator.normal(0, 30, shape), 0).astype(np.float32)
    image[radius < 0.1] = 0
    reaches_out = (np.abs(z) < 0.1) & (radius > 0.9) & (radius < 1.1)
    label = np.where(radius < 0.3, 2, (radius < 0.6) | reaches_out).astype(np.uint8)
    return image[None], label


@pytest.fixture(scope="module")
def plan(dataset, plan_for):
    return plan_for(dataset)


def test_every_pack_runs(dataset, plan_for, recipe_of, pack):
    plan = plan_for(dataset, pack)
    image, label = made()
    before = image.copy(), label.copy()
    for name in plan.configurations:
        recipe = recipe_of(plan, name)
        got = pickle.loads(pickle.dumps(recipe)).run(image, label, SPACING)
        assert got.image.shape[1:] == got.label.shape == got.geometry.network_shape
        assert (got.image.dtype, got.label.dtype) == (np.float32, np.int16)
        assert got.image.flags.c_contiguous
        assert np.isfinite(got.image).all()
        assert set(np.unique(got.label)) == {-1, 0, 1, 2}
        assert list(got.locations) == [(1,), (2,)]
        assert recipe.run(image, None, SPACING).label is None
    # What was given is as it was.
    assert np.array_equal(image, before[0])
    assert np.array_equal(label, before[1])


def test_two_dimensions_keep_the_distance_of_slices(plan, recipe_of):
    image, label = made()
    recipe = recipe_of(plan, "2d")
    got = recipe.run(image, label, (7.0, 1.0, 1.2))
    assert got.geometry.network_spacing == (7.0, *recipe.spacing)
    assert got.image.shape[1] == got.geometry.crop_shape[0]


def test_a_class_that_resampling_removes_is_remembered(plan, recipe_of):
    image, label = made()
    label[label == 2] = 1
    label[7, 20, 18] = 2
    recipe = recipe_of(plan, "3d_fullres")
    got = recipe.run(image, label, tuple(edge / 4 for edge in recipe.spacing))
    assert not (got.label == 2).any()
    assert list(got.locations) == [(1,)]
    assert got.original_classes == ((1,), (2,))
    assert recipe.run(image, None, SPACING).original_classes == ()


@pytest.mark.parametrize("pack", ["nnunet@2.8.0", "nnunet@1.7.0"])
def test_without_a_change_of_grid_it_is_crop_and_formula(dataset, plan_for, recipe_of, pack):
    plan = changed(plan_for(dataset, pack), channels__0__normalization__use_mask=True)
    recipe = recipe_of(plan)
    image, label = made()
    order = recipe.transpose_forward
    spacing = tuple(np.array(recipe.spacing)[[order.index(axis) for axis in range(3)]])
    got = recipe.run(image, label, spacing)
    inside = ndimage.binary_fill_holes(image[0].transpose(order) != 0)
    (box,) = ndimage.find_objects(inside.astype(int))
    expected_label = label.transpose(order)[box].astype(int)
    expected_label[(expected_label == 0) & ~inside[box]] = -1
    assert np.array_equal(got.label, expected_label)
    assert got.geometry.crop_start == tuple(part.start for part in box)
    assert got.geometry.crop_stop == tuple(part.stop for part in box)
    values = image[0].transpose(order)[box].astype(np.float64)
    mask = expected_label >= 0
    expected = np.where(mask, (values - values[mask].mean()) / values[mask].std(), 0)
    assert np.abs(got.image[0] - expected).max() < 1e-5
    # In the box, some of what is labelled has no intensity.
    assert ((values == 0) & (expected_label > 0)).any()


def test_order_of_steps_is_the_plans(plan, recipe_of):
    image, label = made()
    name = "configurations__3d_fullres__preprocessing_steps"
    mask = {"channels__0__normalization__use_mask": True}
    first = recipe_of(changed(plan, **{name: ["transpose", "crop", "normalize", "resample"]}, **mask))
    last = recipe_of(
        changed(plan, **{name: ["crop", "transpose", "replace_nan", "resample", "normalize"]}, **mask)
    )
    spacing = (6.0, 0.7, 0.9)
    one, other = first.run(image, label, spacing), last.run(image, label, spacing)
    assert np.array_equal(one.label, other.label)
    assert one.geometry == other.geometry
    # Normalised last, the mask is that of the resampled label, and its statistics are exact.
    inside = other.label >= 0
    assert abs(other.image[0][inside].mean()) < 1e-5
    assert abs(other.image[0][inside].std() - 1) < 1e-5
    assert abs(one.image[0][inside].std() - 1) > 1e-4
    alone = last.run(image, None, spacing)
    assert alone.label is None
    assert alone.image.shape == other.image.shape


def test_without_a_reference_the_mask_can_be_kept(plan, recipe_of):
    image, _ = made()
    recipe = recipe_of(plan)
    got = recipe.run(image, None, SPACING, keep_mask=True)
    assert set(np.unique(got.label)) == {-1, 0}
    assert got.locations == {}
    assert np.array_equal(got.image, recipe.run(image, None, SPACING).image)


def test_undefined_intensities(dataset, plan_for, recipe_of):
    image, label = made()
    image[0, 7, 20, 18] = np.nan
    with pytest.raises(ImageError, match="channel 0 are not finite; got 1 of"):
        recipe_of(plan_for(dataset)).run(image, label, SPACING)
    got = recipe_of(plan_for(dataset, "nnunet@1.7.0")).run(image, label, SPACING)
    assert np.isfinite(got.image).all()
    image[0, 7, 20, 18] = 1e300 if image.dtype == np.float64 else np.inf
    with pytest.raises(ImageError, match="not finite"):
        recipe_of(plan_for(dataset, "nnunet@1.7.0")).run(image, label, SPACING)


def test_too_large_for_float32(plan, recipe_of):
    image, label = made()
    with pytest.raises(ImageError, match="too large for float32"):
        recipe_of(plan).run(image.astype(np.float64) * 1e40, label, SPACING)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float64])
def test_any_type_of_intensities(plan, recipe_of, dtype):
    image, label = made()
    got = recipe_of(plan).run(image.astype(dtype), label, SPACING)
    expected = recipe_of(plan).run(image.astype(dtype).astype(np.float32), label, SPACING)
    assert np.array_equal(got.image, expected.image)


@pytest.mark.parametrize(
    ("value", "dtype"), [(3, np.uint8), (70000, np.int32), (-2, np.int16), (2**40, np.int64)]
)
def test_undeclared_labels_are_named(plan, recipe_of, value, dtype):
    image, label = made()
    label = label.astype(dtype)
    label[7, 20, 18:20] = value
    with pytest.raises(ImageError, match=rf"{value} \(2 voxels\); expected 0, 1, 2"):
        recipe_of(plan).run(image, label, SPACING)


def test_labels_below_the_outside_label_become_zero_where_the_plan_says_so(plan, recipe_of):
    image, label = made()
    label = label.astype(np.int16)
    label[7, 20, 18] = -7
    recipe = recipe_of(changed(plan, preprocessing__crop__labels_below_outside_label="zero"))
    assert recipe.run(image, label, SPACING).label.min() == -1


def test_wrong_number_of_channels(plan, recipe_of):
    image, label = made()
    with pytest.raises(ImageError, match="1 channels"):
        recipe_of(plan).run(np.concatenate([image, image]), label, SPACING)


def test_image_that_vanishes_at_the_target_spacing(plan, recipe_of):
    with pytest.raises(ImageError, match="thinner than half a voxel"):
        recipe_of(plan).run(np.ones((1, 1, 20, 20)), None, (0.1, 1.0, 1.0))


def test_regions_and_ignored_voxels(tmp_path, write_dataset, plan_for, recipe_of):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    folder = write_dataset(tmp_path, num_cases=2, labels=labels, more={"regions_class_order": [1, 2]})
    recipe = recipe_of(plan_for(load_dataset(folder)))
    image, label = made()
    label[:, :5] = 3
    got = recipe.run(image, label, SPACING)
    assert list(got.locations) == [(1, 2), (2,), ANNOTATED]
    assert (got.label == 3).any()
    annotated = got.label[tuple(got.locations[ANNOTATED].T)]
    assert set(np.unique(annotated)) == {-1, 0, 1, 2}


def test_digest_depends_on_what_is_read_and_on_nothing_else(plan, recipe_of):
    digest = recipe_of(plan).digest
    fullres = "configurations__3d_fullres__"
    same = [
        {fullres + "batch_size": 7},
        {fullres + "patch_size": [8, 8, 8]},
        {"training__epochs": 3},
        {"channels__0__name": "other"},
        {"dataset__name": "other"},
        {fullres + "resampling__probabilities__order": 0},
        {"configurations__2d__spacing": [9.0, 9.0]},
    ]
    other = [
        {fullres + "spacing": [9.0, 9.0, 9.0]},
        {fullres + "preprocessing_steps": ["transpose", "crop", "resample", "normalize"]},
        {fullres + "resampling__data__order": 1},
        {fullres + "resampling__anisotropy__ratio_above": 2},
        {"preprocessing__storage__image_dtype": "float16"},
        {"preprocessing__foreground_locations__seed": 1},
        {"preprocessing__crop__fill_holes": False},
        {"channels__0__normalization__use_mask": False},
        {"dataset__orientation_policy": "canonical"},
        {"dataset__ignore_label": 2},
    ]
    assert {recipe_of(changed(plan, **change)).digest for change in same} == {digest}
    digests = {recipe_of(changed(plan, **change)).digest for change in other}
    assert len(digests) == len(other)
    assert digest not in digests


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("preprocessing__crop__foreground", "above_threshold"),
        ("preprocessing__crop__all_zero_image", "guess"),
        ("preprocessing__storage__image_dtype", "bfloat16"),
        ("preprocessing__foreground_locations__method", "guess"),
        ("preprocessing__foreground_locations__seed", None),
        ("preprocessing__normalization__zscore__epsilon_use", "multiply"),
        ("channels__0__normalization__scheme", "histogram"),
        ("configurations__3d_fullres__resampling__shape_rounding", "up"),
        (
            "configurations__3d_fullres__preprocessing_steps",
            ["transpose", "crop", "normalize", "sharpen", "resample"],
        ),
        ("configurations__3d_fullres__preprocessing_steps", ["transpose", "normalize", "resample", "crop"]),
        ("configurations__3d_fullres__preprocessing_steps", ["resample", "transpose", "crop", "normalize"]),
        ("dataset__orientation_policy", "random"),
    ],
)
def test_unknown_values_are_refused_by_name(plan, recipe_of, path, value):
    from nnrules_runtime.preprocess.reading import CaseReader
    from nnrules_runtime.values import reading

    changed_plan = changed(plan, **{path: value})
    where = path.replace("__0__", "[0].").replace("__", ".")
    with pytest.raises(PlanError) as caught:
        recipe_of(changed_plan)
        with reading(changed_plan) as root:
            CaseReader.from_plan(root)
    assert f"plan: {where}" in str(caught.value)


def test_all_unknown_values_at_once(plan, recipe_of):
    changes = {"preprocessing__crop__foreground": "x", "preprocessing__storage__label_dtype": "y"}
    with pytest.raises(PlanError) as caught:
        recipe_of(changed(plan, **changes))
    assert len(caught.value.problems) == 2
