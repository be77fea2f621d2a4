from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from nnrules.check_geometry import geometry_findings
from nnrules.image_io import Geometry

GEOMETRY = Geometry(
    shape=(3, 4, 5),
    spacing=(2.0, 0.5, 0.75),
    origin_xyz=(1.0, 2.0, 3.0),
    direction_xyz=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    dimension=3,
    num_channels=1,
)


def kinds(*geometries: Geometry) -> list[tuple[str, str]]:
    files = [(Path(f"f{number}.nrrd"), geometry) for number, geometry in enumerate(geometries)]
    return [(finding.severity, finding.code) for finding in geometry_findings("a", files)]


def test_one_file_or_none() -> None:
    assert kinds() == []
    assert kinds(GEOMETRY) == []


@pytest.mark.parametrize(
    "spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan")), (float("inf"), 1.0, 1.0)]
)
def test_a_spacing_that_is_no_size(spacing: tuple[float, float, float]) -> None:
    wrong = replace(GEOMETRY, spacing=spacing)
    # Nothing else can be measured with such a spacing: one cause, one finding.
    assert kinds(wrong, GEOMETRY) == [("error", "geometry.invalid_spacing")]
    assert kinds(GEOMETRY, wrong) == [("error", "geometry.invalid_spacing")]


def test_a_direction_without_length() -> None:
    assert kinds(GEOMETRY, replace(GEOMETRY, direction_xyz=(0.0,) * 9)) == [("error", "geometry.direction")]


def test_every_kind_at_once() -> None:
    other = replace(
        GEOMETRY,
        spacing=(2.0, 0.5, 0.8),
        origin_xyz=(1.0, 2.0, 3.01),
        direction_xyz=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    assert kinds(GEOMETRY, other) == [
        ("error", "geometry.spacing"),
        ("note", "geometry.origin"),
        ("error", "geometry.direction"),
    ]


def test_another_shape_explains_everything_else() -> None:
    other = replace(GEOMETRY, shape=(3, 4, 6), spacing=(9.0, 9.0, 9.0))
    assert kinds(GEOMETRY, other, other) == [("error", "geometry.shape")]


def test_the_made_up_spacing_of_2d_does_not_hide_a_shift() -> None:
    flat = replace(
        GEOMETRY,
        shape=(1, 4, 5),
        spacing=(999.0, 1.0, 1.0),
        origin_xyz=(0.0, 0.0),
        direction_xyz=(1.0, 0.0, 0.0, 1.0),
        dimension=2,
    )
    assert kinds(flat, replace(flat, origin_xyz=(0.0, 1.0))) == [("error", "geometry.origin")]
