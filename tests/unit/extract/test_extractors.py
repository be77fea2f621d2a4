from importlib.metadata import EntryPoint
from types import MappingProxyType

import numpy as np
import pytest
from nnrules.dataset import load_dataset
from nnrules.errors import FingerprintError
from nnrules.extract import CaseExtractor, extract_fingerprint, extractors
from nnrules.extract.extractors import load_extractors


class Brightness:
    name = "brightness"
    version = 3
    units = MappingProxyType({"mean": "HU"})

    def extract(self, image, label, geometry, facts):
        assert image.ndim == 4
        assert label.shape == geometry.shape
        assert facts.num_channels == len(image)
        return {"mean": image.mean(), "is_large": bool(image.size > 200), "kind": "grey", "num": np.int64(2)}


class Failing(Brightness):
    name = "failing"

    def extract(self, image, label, geometry, facts):
        raise RuntimeError("no idea")


class Strange(Brightness):
    name = "strange"

    def extract(self, image, label, geometry, facts):
        return {"list": [1], "a b": 1, "nan": float("nan"), "huge": 10**400}


class Patchy(Brightness):
    name = "patchy"

    def extract(self, image, label, geometry, facts):
        return {"x": 1.0 if image.size > 200 else "small", **({"y": 1} if image.size > 200 else {})}


class BadName(Brightness):
    name = "intensity"


brightness, failing, strange, patchy, bad_name = Brightness(), Failing(), Strange(), Patchy(), BadName()
nothing = object()


@pytest.fixture
def install(monkeypatch):
    def make(**objects: str) -> None:
        points = [
            EntryPoint(name, f"{__name__}:{target}", extractors.GROUP) for name, target in objects.items()
        ]
        monkeypatch.setattr(extractors, "entry_points", lambda group: [p for p in points if p.group == group])

    return make


def test_results_arrive_as_columns_with_type_and_unit(install, make_dataset, two_cases):
    install(bright="brightness")
    fingerprint = extract_fingerprint(load_dataset(make_dataset(two_cases)))
    columns = fingerprint.document["extra"]["columns"]
    assert isinstance(brightness, CaseExtractor)
    assert columns["brightness_mean"]["unit"] == "HU"
    expected = [two_cases[case][0][0].mean() for case in ("a", "b")]
    assert columns["brightness_mean"]["values"] == pytest.approx(expected, rel=1e-6)
    assert columns["brightness_is_large"] == {"type": "boolean", "unit": None, "values": [True, False]}
    assert columns["brightness_kind"]["type"] == "string"
    assert columns["brightness_num"] == {"type": "number", "unit": None, "values": [2, 2]}
    assert fingerprint.extractors == {"geometry": 1, "labels": 1, "intensity": 1, "brightness": 3}


def test_names_choose_extractors(install, make_dataset, two_cases):
    install(bright="brightness", fail="failing")
    dataset = load_dataset(make_dataset(two_cases))
    assert "brightness_mean" in extract_fingerprint(dataset, extractors=["bright"]).extra_columns
    assert not extract_fingerprint(dataset, extractors=[]).extra_columns
    with pytest.raises(FingerprintError, match=r"no such extractor; expected bright, fail"):
        extract_fingerprint(dataset, extractors=["brigth"])


def test_cached_results_depend_on_the_version(install, make_dataset, two_cases, tmp_path, monkeypatch):
    install(bright="brightness")
    dataset = load_dataset(make_dataset(two_cases))
    first = extract_fingerprint(dataset, cache=tmp_path / "cache")
    monkeypatch.setattr(Brightness, "extract", lambda self, image, label, geometry, facts: {"mean": 5.0})
    assert extract_fingerprint(dataset, cache=tmp_path / "cache").document == first.document
    monkeypatch.setattr(Brightness, "version", 4)
    renewed = extract_fingerprint(dataset, cache=tmp_path / "cache")
    assert renewed.extra_columns["brightness_mean"].values.tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("target", "messages"),
    [
        ("failing", ["a: extractor failing: failed; got RuntimeError: no idea", "b: extractor failing"]),
        ("strange", ["'list': [1]", "'a b': 1", "'nan': nan", "'huge': 1000"]),
        ("patchy", ["patchy_x: the extractor did not give one value", "number and string", "nothing for b"]),
    ],
)
def test_wrong_extractors_are_named(install, make_dataset, two_cases, target, messages):
    install(it=target)
    with pytest.raises(FingerprintError) as caught:
        extract_fingerprint(load_dataset(make_dataset(two_cases)))
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [("missing", "cannot be loaded"), ("nothing", "not an extractor"), ("bad_name", "not a name")],
)
def test_what_is_no_extractor_is_refused(install, target, message):
    install(it=target)
    with pytest.raises(FingerprintError, match=message):
        load_extractors()


def test_a_table_may_not_repeat_a_column_of_an_extractor(install, make_dataset, two_cases, tmp_path):
    install(bright="brightness")
    (tmp_path / "t.csv").write_text("case,brightness_mean\na,1\nb,2\n")
    with pytest.raises(FingerprintError, match="the table of features and an extractor give the same column"):
        extract_fingerprint(load_dataset(make_dataset(two_cases)), features=tmp_path / "t.csv")
