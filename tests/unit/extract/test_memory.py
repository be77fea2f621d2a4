import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nnrules.dataset import Case
from nnrules.extract import memory
from nnrules.extract.memory import MemoryGate, needed_bytes


def case(path: Path, name: str = "a") -> Case:
    return Case(id=name, image_paths=(path,), label_path=path, group=None, subject=None)


def test_small_files_are_not_looked_at_and_large_ones_by_header(tmp_path, monkeypatch):
    path = tmp_path / "x.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), str(path))
    assert needed_bytes(case(path)) == 0
    monkeypatch.setattr(memory, "_SMALL_FILES_BYTES", 1)
    assert needed_bytes(case(path)) == 24 * (8 + 4)  # voxels, bytes of image and label


def test_cases_wait_until_they_fit_and_a_too_large_one_runs_alone(monkeypatch, caplog):
    sizes = {"a": 60, "b": 60, "huge": 500}
    monkeypatch.setattr(memory, "needed_bytes", lambda case: sizes[case.id])
    gate = MemoryGate(100)
    together, most, finished = 0, 0, []
    lock = threading.Lock()

    def work(name: str) -> None:
        nonlocal together, most
        with gate.entered(case(Path("x"), name)):
            with lock:
                together += 1
                most = max(most, together)
            threading.Event().wait(0.02)
            with lock:
                together -= 1
            finished.append(name)

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(finished) == ["a", "b", "huge"]
    assert most == 1
    assert "huge needs about" in caplog.text


def test_the_share_is_given_back_after_an_error(monkeypatch):
    monkeypatch.setattr(memory, "needed_bytes", lambda case: 80)
    gate = MemoryGate(100)
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), gate.entered(case(Path("x"))):
            raise ValueError("x")
    with gate.entered(case(Path("x"))):
        pass
