"""Plans, a small dataset, networks and work folders that the tests of the runtime share."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from nnrules.dataset import Dataset, load_dataset
from nnrules.engine.packs import load_pack
from nnrules.engine.planning import make_plan
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan
from torch import nn

from nnrules_runtime.network import build_network, initialize
from nnrules_runtime.network.model import write_model
from nnrules_runtime.preprocess.dataset import preprocess_dataset
from nnrules_runtime.preprocess.store import CaseStore
from nnrules_runtime.profile import Profile, choose_profile
from nnrules_runtime.values import reading
from nnrules_runtime.workspace import Workspace

LABELS = {"background": 0, "a": 1, "b": 2}
PACKS = (
    "nnunet@2.8.0",
    "nnunet-resenc@2.8.0",
    "nnunet@1.7.0",
    "nnunet@1.0.0",
    "nnunet@0.6.0",
    "preprint@2.0.0",
)


@pytest.fixture(scope="session")
def packs() -> tuple[str, ...]:
    """A pack of each method whose plans the runtime executes."""
    return PACKS


@pytest.fixture(params=PACKS)
def pack(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.param)


def planned(make_fingerprint: Callable[..., Fingerprint], pack: str) -> Plan:
    fingerprint = make_fingerprint(
        [(36, 50, 35)] * 30, [(1.0, 1.0, 1.0)] * 30, channels=("MRI",), labels=LABELS, num_training=30
    )
    return make_plan(fingerprint, load_pack(pack))


@pytest.fixture(scope="session")
def hippocampus_plan(make_fingerprint: Callable[..., Fingerprint]) -> Plan:
    """A plan like that of a dataset of small images, with a patch of (40, 56, 40)."""
    return planned(make_fingerprint, "nnunet@2.8.0")


@pytest.fixture(scope="session")
def tiny_plan(
    make_fingerprint: Callable[..., Fingerprint], shrink: Callable[..., None]
) -> Callable[..., Plan]:
    """A plan whose training takes a second: few features, small patches, short epochs."""

    def make(pack: str = "nnunet@2.8.0", **training: Any) -> Plan:
        document = copy.deepcopy(dict(planned(make_fingerprint, pack).document))
        for name in ("2d", "3d_fullres"):
            shrink(document["configurations"][name], features=(4, 6, 8))
        document["training"] |= {
            "epochs": 3,
            "num_iterations_per_epoch": 4,
            "num_validation_iterations_per_epoch": 2,
            "seed": 7,
        }
        document["training"] |= training
        return Plan.from_document(document)

    return make


@pytest.fixture(scope="session")
def cascade_plan(
    make_fingerprint: Callable[..., Fingerprint], tiny_plan: Callable[..., Plan]
) -> Callable[..., Plan]:
    """A tiny plan of two folds with a cascade: the first stage at half the resolution."""

    def make(pack: str = "nnunet@2.8.0", **training: Any) -> Plan:
        fingerprint = make_fingerprint(
            [(400, 400, 400)] * 30, [(1.0, 1.0, 1.0)] * 30, channels=("MRI",), labels=LABELS, num_training=30
        )
        planned = make_plan(fingerprint, load_pack(pack)).configurations["3d_cascade_fullres"]
        document = copy.deepcopy(dict(tiny_plan(pack, **training).document))
        document["folds"]["num_folds"] = 2
        configurations = document["configurations"]
        first, second = (copy.deepcopy(configurations["3d_fullres"]) for _ in range(2))
        first |= {"next_stage": "3d_cascade_fullres"}
        first["spacing"] = [2 * edge for edge in first["spacing"]]
        second["inherits_from"] = "3d_fullres"
        second |= {key: copy.deepcopy(planned[key]) for key in ("previous_stage", "cascade", "augmentation")}
        second["architecture"]["num_input_channels"] = planned["architecture"]["num_input_channels"]
        configurations |= {"3d_lowres": first, "3d_cascade_fullres": second}
        return Plan.from_document(document)

    return make


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, write_boxes: Callable[..., Path]) -> Dataset:
    """Ten images of two bright boxes in noise."""
    folder = tmp_path_factory.mktemp("dataset")
    return load_dataset(
        write_boxes(folder, num_cases=10, shape=(18, 22, 20), box=(6, 8, 9), starts=(2, 8), seed=3)
    )


@pytest.fixture(scope="session")
def tiny_store(
    tiny_plan: Callable[..., Plan], tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> CaseStore:
    """Its cases, preprocessed for 3d_fullres."""
    workspace = Workspace(tmp_path_factory.mktemp("store"))
    return preprocess_dataset(tiny_plan(), tiny_dataset, "3d_fullres", workspace, num_workers=0)


@pytest.fixture(scope="session")
def cpu_profile() -> Callable[..., Profile]:
    """A profile of one thread, deterministic, without workers."""

    def make(**changes: Any) -> Profile:
        options: Mapping[str, Any] = {
            "device": "cpu",
            "precision": "float32",
            "compile": False,
            "channels_last": False,
            "num_threads": 1,
            "num_workers": 0,
            "deterministic": True,
        }
        return choose_profile(None, **{**options, **changes})

    return make


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture(autouse=True)
def _torch_as_before(torch_as_before: None) -> None:
    """For every test of the runtime."""


@pytest.fixture(scope="session")
def narrow() -> Callable[[Plan], Plan]:
    """A plan with networks of two features a stage."""

    def make(plan: Plan) -> Plan:
        document = copy.deepcopy(dict(plan.document))
        for configuration in document["configurations"].values():
            architecture = configuration["architecture"]
            architecture["features_per_stage"] = [2] * architecture["num_stages"]
        return Plan.from_document(document)

    return make


@pytest.fixture(scope="session")
def drawn_network() -> Callable[..., nn.Module]:
    """The network of a plan with drawn weights."""

    def draw(plan: Plan, name: str, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with reading(plan) as root:
            configuration = root.section("configurations").section(name)
            network = build_network(configuration)
        initialize(network, configuration, generator)
        return network.eval()

    return draw


@pytest.fixture(scope="session")
def make_work(drawn_network: Callable[..., nn.Module]) -> Callable[..., Workspace]:
    """A work folder with trained folds: ``make_work(folder, plan, {"2d": [0, 1]})``."""

    def make(
        folder: Path, plan: Plan, folds: Mapping[str, Sequence[int | str]], *, checkpoint: str = "final"
    ) -> Workspace:
        workspace = Workspace(folder)
        for name, numbers in folds.items():
            for seed, fold in enumerate(numbers):
                write_model(
                    workspace.fold(name, fold), drawn_network(plan, name, seed), plan=plan, configuration=name,
                    fold=fold, epoch=3, checkpoint=checkpoint,  # type: ignore[arg-type]
                )  # fmt: skip
        return workspace

    return make


HOLD = """
import sys
from pathlib import Path
from nnrules_runtime.lock import locked

with locked(Path(sys.argv[1]), sys.argv[2], what="", fix=""):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def held_elsewhere() -> Callable[[Path, str], AbstractContextManager[subprocess.Popen[str]]]:
    """``with held_elsewhere(folder, name) as process:`` another process holds the lock with this name."""

    @contextmanager
    def hold(folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", HOLD, str(folder), name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
            process.kill()  # however it ends, the system releases the lock

    return hold
