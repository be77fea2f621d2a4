"""Plans of every pack, and pipelines read from them with some fields changed."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint

from nnrules_runtime.augment import Augmentation
from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section


@pytest.fixture(scope="session")
def plan_documents(make_fingerprint: Callable[..., Fingerprint], packs: tuple[str, ...]) -> dict[str, Any]:
    """For each pack a plan with 2d, 3d_fullres, 3d_lowres and 3d_cascade_fullres; two channels, three labels."""
    fingerprint = make_fingerprint(
        [(500, 512, 512)] * 20,
        [(1.0, 0.7, 0.7)] * 20,
        channels=("MRI", "CT"),
        labels={"background": 0, "a": 1, "b": 2, "c": 3},
    )
    return {pack: make_plan(fingerprint, load_pack(pack)).document for pack in packs}


@pytest.fixture(scope="session")
def make_augmentation(plan_documents: dict[str, Any]) -> Callable[..., Augmentation]:
    """A pipeline of a pack's plan, with a small patch and fields of ``augmentation`` changed by their dotted paths."""

    def make(
        pack: str = "nnunet@2.8.0",
        configuration: str = "3d_fullres",
        *,
        patch: Sequence[int] | None = None,
        initial: Sequence[int] | None = None,
        changes: dict[str, Any] | None = None,
        use_mask: Sequence[bool] = (True, False),
        validation: bool = False,
    ) -> Augmentation:
        document = copy.deepcopy(plan_documents[pack])
        chosen = document["configurations"][configuration]
        is_2d = chosen["dim"] == 2
        chosen["patch_size"] = list(patch or ((20, 18) if is_2d else (12, 14, 10)))
        chosen["sampling"]["initial_patch_size"] = list(initial or ((29, 26) if is_2d else (20, 21, 17)))
        for channel, use in zip(document["channels"], use_mask, strict=True):
            channel["normalization"]["use_mask"] = use
        for path, value in (changes or {}).items():
            place = chosen["augmentation"]
            *parents, last = path.split(".")
            for part in parents:
                place = place[part]
            place[last] = value
        problems: list[Any] = []
        root = Section(document, "", problems)
        read = Augmentation.for_validation if validation else Augmentation.from_plan
        augmentation = read(root, Section(chosen, "", problems), LabelSet.from_plan(root))
        assert not problems, problems
        return augmentation

    return make
