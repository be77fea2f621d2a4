"""Importance maps and starts of windows for drawn patch sizes, against the installed nnunetv2 2.8.1."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint

from nnrules_runtime.predict.window import Importance, evenly_spread
from nnrules_runtime.values import reading

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(300)]

NUM_SIZES = 12  # of each dimension
NUM_IMAGES = 60
FLOAT32_LIMIT = 1e-6  # of weights of up to 10
STEPS = (0.25, 0.3, 0.5, 0.7, 1.0)


def test_maps_and_starts(
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
    make_fingerprint: Callable[..., Fingerprint],
) -> None:
    sizes = [[int(edge) for edge in rng.integers(2, 73, dim)] for dim in (2, 3) for _ in range(NUM_SIZES)] + [
        [16, 256, 224],
        [512, 448],
    ]
    windows = [[int(edge) for edge in rng.integers(2, 97, 3)] for _ in range(NUM_IMAGES)]
    steps = [
        {
            "window": window,
            "image": [edge + int(more) for edge, more in zip(window, rng.integers(0, 200, 3), strict=True)],
            "step": float(rng.choice(STEPS)),
        }
        for window in windows
    ]
    starts, maps = ask_peer("importance", {"sizes": sizes, "steps": steps})
    fingerprint = make_fingerprint([(60, 60, 60)] * 20, [(1.0, 1.0, 1.0)] * 20, channels=("MRI",))
    with reading(make_plan(fingerprint, load_pack("nnunet@2.8.0"))) as root:
        section = root.section("configurations")
        importance = {
            2: Importance.from_plan(section.section("2d")),
            3: Importance.from_plan(section.section("3d_fullres")),
        }
    for name, limit in (("float32", FLOAT32_LIMIT), ("float16", 0.0)):
        worst = 0.0
        for number, size in enumerate(sizes):
            theirs = maps[f"{number}/{name}"]
            ours = importance[len(size)].map(size, name)
            assert ours.dtype == theirs.dtype
            worst = max(worst, float(np.abs(ours.astype(np.float64) - theirs).max()))
        compare(f"{len(sizes)} importance maps in {name}", worst, limit)
    wrong = 0
    for one, theirs in zip(steps, starts, strict=True):
        edges = zip(one["image"], one["window"], strict=True)
        wrong += [list(evenly_spread(*pair, one["step"])) for pair in edges] != theirs
    compare(f"number of starts of windows of {len(steps)} images", wrong, 0)
