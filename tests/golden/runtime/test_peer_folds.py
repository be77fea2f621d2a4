"""The folds of drawn lists of cases, against the trainer of the installed nnunetv2 2.8.1."""

import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint

from nnrules_runtime.folds.policy import FoldPolicy, split_folds
from nnrules_runtime.values import reading

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(300)]

NUM_LISTS = 30
LETTERS = list(string.ascii_letters + string.digits + "_-. ÄéßΩ中")


def drawn_names(rng: np.random.Generator) -> list[str]:
    """Case names in any order: numbered with and without zeros, or of any characters."""
    count = int(rng.integers(5, 90))
    kind = int(rng.integers(3))
    if kind == 0:
        names = {f"case_{number:04d}" for number in rng.integers(0, 9999, count)}
    elif kind == 1:
        names = {f"P{number}" for number in rng.integers(0, 9999, count)}
    else:
        names = {"".join(rng.choice(LETTERS, rng.integers(1, 9))) for _ in range(count)}
    names |= {f"more {number}" for number in range(5 - len(names))}
    return [str(name) for name in rng.permutation(sorted(names))]


def test_drawn_lists(
    ask_peer: Callable[..., Any],
    rng: np.random.Generator,
    compare: Callable[[str, float, float], None],
    make_fingerprint: Callable[..., Fingerprint],
) -> None:
    requests = [
        {"names": drawn_names(rng), "folds": [*range(5), *(int(fold) for fold in rng.integers(5, 60, 2))]}
        for _ in range(NUM_LISTS)
    ]
    answers, _ = ask_peer("folds", requests)
    with reading(make_plan(make_fingerprint(), load_pack("nnunet@2.8.0"))) as root:
        policy = FoldPolicy.from_plan(root)
        splits = [split_folds(root, request["names"]) for request in requests]
    wrong = count = 0
    for request, split, theirs in zip(requests, splits, answers, strict=True):
        assert len(split) == 5
        for number, (train, validation) in zip(request["folds"], theirs, strict=True):
            ours = policy.fold(number, request["names"])
            if number < 5:
                assert ours == split[number]
            # Beyond the five, the trainer lists training cases as they were drawn; ours are sorted.
            wanted = (sorted(train) if number >= 5 else train), validation
            wrong += (list(ours.train), list(ours.validation)) != wanted
            count += 1
    compare(f"number of folds of {NUM_LISTS} lists of cases, of {count}", wrong, 0)
