import threading
import time
from pathlib import Path

import pytest
from nnrules.dataset import Case
from nnrules.errors import FingerprintError, ImageError, Problem
from nnrules.extract.schedule import default_workers, in_case_order


def cases(number: int, tmp_path: Path = Path("none")) -> list[Case]:
    return [
        Case(id=f"c{i:03d}", image_paths=(), label_path=tmp_path / f"{i}", group=None, subject=None)
        for i in range(number)
    ]


def test_results_come_in_case_order_however_long_each_takes():
    def work(case: Case) -> str:
        time.sleep(0.01 if case.id.endswith("0") else 0)
        return case.id

    given = cases(50)
    assert list(in_case_order(work, given, workers=4)) == [case.id for case in given]


def test_results_do_not_pile_up_behind_a_slow_case():
    gate, started = threading.Event(), []

    def work(case: Case) -> str:
        started.append(case.id)
        if case.id == "c000":
            gate.wait(10)
        return case.id

    results = in_case_order(work, cases(500), workers=2)
    timer = threading.Timer(0.2, gate.set)
    timer.start()
    next(results)
    assert len(started) <= 2 * 8 + 1
    results.close()
    timer.join()


def test_closing_drops_what_has_not_begun():
    done = []

    def work(case: Case) -> None:
        time.sleep(0.005)
        done.append(case.id)

    results = in_case_order(work, cases(100), workers=1)
    next(results)
    results.close()
    assert len(done) <= 4


def test_all_failures_are_reported_with_their_case(tmp_path):
    (tmp_path / "3").write_bytes(b"12345678")

    def work(case: Case) -> str:
        if case.id == "c001":
            raise ImageError(Problem(where="file.nii", what="broken"))
        if case.id == "c002":
            raise OSError("disk gone")
        if case.id == "c003":
            raise MemoryError("Unable to allocate 9 GiB")
        return case.id

    seen: list[str] = []
    with pytest.raises(ImageError) as caught:
        seen.extend(in_case_order(work, cases(6, tmp_path), workers=2))
    texts = [str(problem) for problem in caught.value.problems]
    assert texts[0] == "c001: file.nii: broken."
    assert texts[1] == "c002: a file cannot be read; got disk gone."
    assert texts[2].startswith("c003: the memory does not suffice for this case")
    assert "9 GiB" in texts[2]
    assert seen == ["c000"], "nothing is handed on after a failure"


def test_failures_of_extractors_are_fingerprint_errors():
    def work(case: Case) -> None:
        raise FingerprintError(Problem(where=case.id, what="extractor failed"))

    with pytest.raises(FingerprintError, match="c000: extractor failed"):
        list(in_case_order(work, cases(1), workers=1))


def test_bugs_are_not_hidden():
    def work(case: Case) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(in_case_order(work, cases(3), workers=2))


def test_default_workers_is_at_least_one():
    assert default_workers() >= 1
