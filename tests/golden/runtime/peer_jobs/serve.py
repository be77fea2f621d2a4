"""Answers the tests' questions inside the interpreter of nnU-Net v2, until the input ends: it starts only once.

Each line of the input names a folder with ``question.json`` (``task``: a module beside this file, and ``document``) and
``question.npz``. The module's ``answer(document, arrays)`` returns the content of ``answer.json`` and ``answer.npz``;
where it fails, ``answer.json`` has the traceback as ``error``. A line follows on the output when the files are there.
"""

import importlib
import json
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

# More than one wait for each other where the cores are busy.
THREADS = 1


def answered(folder):
    question = json.loads((folder / "question.json").read_text())
    with np.load(folder / "question.npz") as file:
        arrays = {name: file[name] for name in file.files}
    try:
        document, found = importlib.import_module(question["task"]).answer(question["document"], arrays)
    except Exception:
        return {"error": traceback.format_exc()}, {}
    return {"document": document}, found


def main():
    lines, sys.stdout = sys.stdout, sys.stderr  # nnU-Net prints
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    for line in sys.stdin:
        folder = Path(line.strip())
        document, arrays = answered(folder)
        np.savez(folder / "answer.npz", **arrays)
        (folder / "answer.json").write_text(json.dumps(document))
        print("done", file=lines, flush=True)


if __name__ == "__main__":
    main()
