"""Seconds of a whole prediction, ours and nnU-Net v2's: the recorded Hippocampus model on one image, with mirroring.

Both run in turns, in the same number of threads. ``window`` is the sliding window of the preprocessed case, ``case``
goes from the image's array to the segmentation.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.image_io import read_image
from nnrules.interop.nnunetv2_read import fingerprint_from_nnunet

from nnrules_runtime.network.model_import import import_nnunetv2
from nnrules_runtime.predict.predictor import Predictor
from nnrules_runtime.profile import choose_profile

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
MODEL = SHARED / "golden/runtime/c_model/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres"
IMAGE = SHARED / "data/hippocampus/imagesTr/hippocampus_017_0000.nii.gz"
SCRIPT = Path(__file__).resolve().parent / "runtime_peer" / "predict.py"
REPEATS = 5
NUM_THREADS = 2


def measure(
    peer_python: Path, repeats: int = REPEATS, num_threads: int = NUM_THREADS
) -> dict[str, dict[str, float]]:
    """Medians of runs in turns.

    Args:
        peer_python: the interpreter that has nnunetv2.
        repeats: runs of each.
        num_threads: of both.

    Returns:
        For ``window`` and ``case``: ``ours_s`` in the profile's precision, ``ours_float32_s``, ``peer_s``, ``ratio``
        (peer to ours) and ``ratio_float32``; for ``labels``: the share of voxels that are equal to nnU-Net's
        recorded segmentation, in both precisions.

    Raises:
        FileNotFoundError: the recorded model is not beside the checkout.
    """
    if not MODEL.is_dir():
        raise FileNotFoundError(MODEL)
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with tempfile.TemporaryDirectory(prefix="nnrules-prediction-") as made:
            return _measure(peer_python, Path(made), repeats, num_threads)
    finally:
        torch.set_num_threads(threads)


def _measure(peer_python: Path, folder: Path, repeats: int, num_threads: int) -> dict[str, dict[str, float]]:
    image, geometry = read_image([IMAGE])
    predictors = _predictors(folder, num_threads)
    actions: dict[str, Callable[[], object]] = {}
    for name, predictor in predictors.items():
        prepared, _ = predictor.prepare(image, geometry.spacing)
        actions[f"window {name}"] = lambda who=predictor, what=prepared: who.logits(what)
        actions[f"case {name}"] = lambda who=predictor: who.predict(image, geometry.spacing)
    np.savez(folder / "image.npz", image=image.astype(np.float32), spacing=np.array(geometry.spacing))
    job = {
        "mode": "time",
        "num_threads": num_threads,
        "model": str(MODEL),
        "image": str(folder / "image.npz"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    names = {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    command = [str(peer_python), str(SCRIPT), str(folder / "job.json"), str(folder / "answer.json")]
    found: dict[str, list[float]] = {}
    with (
        (folder / "peer.log").open("w") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **names, "OMP_NUM_THREADS": str(num_threads)},
        ) as peer,
    ):
        for turn in range(repeats + 1):
            for name, action in actions.items():
                start = time.perf_counter()
                action()
                _note(found, name, time.perf_counter() - start, turn)
            for kind in ("window", "case"):
                _note(found, f"{kind} peer", _asked(peer, kind, folder / "peer.log"), turn)
        assert peer.stdin is not None
        peer.stdin.close()
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    result = {kind: _row(medians, kind) for kind in ("window", "case")}
    wanted = read_image([MODEL.parents[1] / "predictions_mirror" / "hippocampus_017.nii.gz"])[0][0]
    result["labels"] = {
        name: float((predictor.predict(image, geometry.spacing) == wanted).mean())
        for name, predictor in predictors.items()
    }
    return result


def _predictors(folder: Path, num_threads: int) -> dict[str, Predictor]:
    fingerprint, dataset = (
        json.loads((MODEL / name).read_text()) for name in ("dataset_fingerprint.json", "dataset.json")
    )
    plan = make_plan(fingerprint_from_nnunet(fingerprint, dataset), load_pack("nnunet@2.8.0"))
    models = folder / "models" / "3d_fullres"
    import_nnunetv2(MODEL, plan, "3d_fullres", models)
    profiles = {
        "ours": choose_profile(device="cpu", num_threads=num_threads),
        "ours_float32": choose_profile(device="cpu", num_threads=num_threads, precision="float32"),
    }
    return {name: Predictor(models, profile=profile) for name, profile in profiles.items()}


def _note(found: dict[str, list[float]], name: str, seconds: float, turn: int) -> None:
    if turn:  # the first counts for nothing
        found.setdefault(name, []).append(seconds)


def _asked(peer: subprocess.Popen[str], kind: str, log: Path) -> float:
    assert peer.stdin is not None
    assert peer.stdout is not None
    try:
        peer.stdin.write(f"{kind}\n")
        peer.stdin.flush()
    except BrokenPipeError:
        pass
    answer = peer.stdout.readline()
    if not answer:
        raise RuntimeError(f"nnU-Net v2 failed: {log.read_text()[-2000:]}")
    return float(answer)


def _row(medians: dict[str, float], kind: str) -> dict[str, float]:
    ours, single, peer = (medians[f"{kind} {name}"] for name in ("ours", "ours_float32", "peer"))
    return {
        "ours_s": ours,
        "ours_float32_s": single,
        "peer_s": peer,
        "ratio": peer / ours,
        "ratio_float32": peer / single,
    }


if __name__ == "__main__":
    json.dump(measure(Path(sys.argv[1])), sys.stdout, indent=1)
