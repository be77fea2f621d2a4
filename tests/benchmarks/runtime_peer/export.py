"""Export of predicted logits by nnU-Net v2. Runs in its own environment: ``python export.py JOB``.

Each line on standard input is an export of the job's logits; the answer is its seconds and the largest memory beside
the logits, bytes.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from resample import export

STATUS = Path("/proc/self/status")


def main(job):
    answers, sys.stdout = sys.stdout, sys.stderr  # nnU-Net prints
    logits = np.load(job["logits"])
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        start = time.perf_counter()
        result = export(logits, job)
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "bytes": memory("VmHWM") - before}
        if line.split()[1:]:
            np.save(line.split()[1], result)
        print(f"answer {json.dumps(answer)}", file=answers, flush=True)


def memory(field):
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
