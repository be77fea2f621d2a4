"""Released versions never change."""

from pathlib import Path

import pytest
from nnrules.authoring import lock
from nnrules.authoring.lock import check_locks, lock_packs
from nnrules.engine import packs
from nnrules.errors import PackError
from nnrules.resources import rules_directory


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pack of two versions."""
    for version in ("1.0.0", "1.1.0"):
        folder = tmp_path / "small" / version
        (folder / "tests").mkdir(parents=True)
        (folder / "release.yaml").write_text("title: Small\ngpu_memory_gb: 8\n", encoding="utf-8")
        (folder / "rules.yaml").write_text("rules: []\n", encoding="utf-8")
    (tmp_path / "small" / "pack.yaml").write_text(
        "name: small\nlanguage: 1\nlatest: 1.1.0\n", encoding="utf-8"
    )
    monkeypatch.setattr(packs, "rules_directory", lambda: tmp_path)
    monkeypatch.setattr(lock, "rules_directory", lambda: tmp_path)
    return tmp_path


def test_versions_are_unlocked_at_first_and_then_locked(rules: Path) -> None:
    (report,) = check_locks()
    assert report.unlocked == ("1.0.0", "1.1.0")
    assert not report.ok
    assert "nnrules rules lock" in str(report.problems()[0])
    lock_packs()
    (report,) = check_locks(["small"])
    assert report.ok
    assert report.problems() == []
    assert set(report.locked) == {"1.0.0", "1.1.0"}
    assert report.to_json()["ok"] is True


def test_the_lock_is_the_same_twice(rules: Path) -> None:
    lock_packs()
    first = (rules / "small" / "pack.lock").read_bytes()
    lock_packs()
    assert (rules / "small" / "pack.lock").read_bytes() == first


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename"])
def test_a_changed_version_is_found_and_not_overwritten(rules: Path, change: str) -> None:
    lock_packs()
    path = rules / "small" / "1.0.0" / "rules.yaml"
    if change == "edit":
        path.write_text("rules: []  # a comment\n", encoding="utf-8")
    elif change == "add":
        path.with_name("more.yaml").write_text("rules: []\n", encoding="utf-8")
    elif change == "remove":
        path.unlink()
    else:
        path.rename(path.with_name("others.yaml"))
    (report,) = check_locks()
    assert report.changed == ("1.0.0",)
    before = (rules / "small" / "pack.lock").read_bytes()
    with pytest.raises(PackError, match="small@1\\.0\\.0 is released and its files have changed"):
        lock_packs()
    assert (rules / "small" / "pack.lock").read_bytes() == before
    lock_packs(accept_changes=True)
    assert check_locks()[0].ok


def test_tests_may_grow_after_a_release(rules: Path) -> None:
    lock_packs()
    (rules / "small" / "1.0.0" / "tests" / "more.yaml").write_text("tests: []\n", encoding="utf-8")
    assert check_locks()[0].ok


def test_a_missing_version_is_found_and_never_accepted(rules: Path) -> None:
    lock_packs()
    (rules / "small" / "1.0.0").rename(rules / "small" / "old")
    assert check_locks()[0].missing == ("1.0.0",)
    with pytest.raises(PackError, match="a released version is gone"):
        lock_packs(accept_changes=True)


def test_a_new_version_is_added_to_the_lock(rules: Path) -> None:
    lock_packs()
    old = check_locks()[0].locked
    folder = rules / "small" / "1.2.0"
    folder.mkdir()
    (folder / "release.yaml").write_text("title: New\n", encoding="utf-8")
    assert check_locks()[0].unlocked == ("1.2.0",)
    lock_packs()
    assert check_locks()[0].locked.items() > old.items()


def test_an_unknown_pack_and_a_broken_lock_are_refused(rules: Path) -> None:
    with pytest.raises(PackError, match="no such rule pack"):
        check_locks(["large"])
    (rules / "small" / "pack.lock").write_text('{"versions": {"1.0.0": 5}}', encoding="utf-8")
    with pytest.raises(PackError, match="not a lock of rule packs"):
        check_locks()


def test_shipped_versions_are_as_released() -> None:
    """Released versions never change: repair a mistake in a new version."""
    reports = check_locks()
    assert [str(problem) for report in reports for problem in report.problems()] == []
    assert {report.pack for report in reports} == {
        path.parent.name for path in rules_directory().glob("*/pack.yaml")
    }
