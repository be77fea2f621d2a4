"""Export of predicted logits by the runtime, in a process of its own: ``python runtime_export_worker.py JOB``.

Each line on standard input is an export of the job's logits; the answer is its seconds, the largest memory beside the
logits, and the bound that the runtime states, bytes. The last two are without the result.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resampling import exporter
from runtime_worker import MARK

from nnrules_runtime.predict.export import export_memory_bytes
from nnrules_runtime.preprocess.geometry import CaseGeometry

STATUS = Path("/proc/self/status")


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["num_threads"])
    logits = np.load(job["logits"])
    shape = tuple(job["shape"])
    geometry = CaseGeometry(
        original_shape=shape,
        original_spacing=tuple(job["new_spacing"]),
        transpose_forward=(0, 1, 2),
        crop_start=(0, 0, 0),
        crop_stop=shape,
        network_shape=logits.shape[1:],
        network_spacing=tuple(job["spacing"]),
    )
    bound = export_memory_bytes(len(logits), logits.shape[1:], shape, num_threads=job["num_threads"])
    exports = exporter(len(logits))
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        start = time.perf_counter()
        result = exports.segmentation(logits, geometry)
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "bytes": memory("VmHWM") - before - result.nbytes, "bound": bound}
        if line.split()[1:]:
            np.save(line.split()[1], result)
        del result  # else the next one would not count its memory
        answers.write(f"{MARK}{json.dumps(answer)}\n")
        answers.flush()


def memory(field: str) -> int:
    """A field of this process's status, bytes."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
