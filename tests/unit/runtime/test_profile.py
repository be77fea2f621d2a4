"""The execution profile: what is chosen, why, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnrules.engine.planning import make_plan
from nnrules.errors import UsageError
from nnrules.fingerprint import Fingerprint

from nnrules_runtime import profile as module
from nnrules_runtime.profile import Profile, choose_profile, cpu_features, num_usable_cores
from nnrules_runtime.values import Section

TRAINING: dict[str, Any] = {
    "mixed_precision": {
        "device_types": ["cuda"],
        "dtype": "float16",
        "in_inference": True,
        "loss_scaling": True,
    }
}


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def training() -> Section:
    return Section(TRAINING, "training", [])


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize(
    ("features", "precision"), [(set(), "float32"), ({"amx_bf16"}, "bfloat16"), ({"avx512_bf16"}, "bfloat16")]
)
def test_the_processor_decides_the_precision(
    monkeypatch: pytest.MonkeyPatch, features: set[str], precision: str
) -> None:
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset(features))
    profile = choose_profile(training())
    assert (profile.device, profile.precision, profile.compile) == ("cpu", precision, False)
    assert profile.dtype is getattr(torch, precision)
    assert not profile.scales_loss
    assert all(feature in profile.reasons["precision"] for feature in features)


def test_cuda_follows_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    profile = choose_profile(training(), device="cuda:1")
    assert (profile.precision, profile.scales_loss, profile.device_type) == ("float16", True, "cuda")
    assert choose_profile(None).precision == "float32"
    assert choose_profile(training(), num_steps=10).compile is False
    assert choose_profile(training(), num_steps=100_000).compile is True
    with pytest.raises(UsageError, match=r"got cuda:2; expected one of cpu, cuda:0, cuda:1"):
        choose_profile(training(), device="cuda:2")


@pytest.mark.usefixtures("only_cpu")
def test_what_is_given_is_taken_and_said() -> None:
    given = {
        "precision": "float32",
        "compile": True,
        "channels_last": False,
        "num_threads": 3,
        "num_workers": 2,
    }
    profile = choose_profile(training(), device="cpu", **given)
    assert {name: getattr(profile, name) for name in given} == given
    assert all(profile.reasons[name] == "given" for name in [*given, "device"])
    assert "num_threads: 3 (given)" in profile.lines()
    assert profile.memory_format(3) == torch.contiguous_format
    last = choose_profile(training(), channels_last=True)
    assert (last.memory_format(2), last.memory_format(3)) == (torch.channels_last, torch.channels_last_3d)


@pytest.mark.usefixtures("only_cpu")
def test_what_is_not_here_is_refused() -> None:
    with pytest.raises(UsageError, match="this device is not here; got cuda; expected one of cpu"):
        choose_profile(device="cuda")
    with pytest.raises(UsageError, match="unknown precision; got int8; expected float32, bfloat16, float16"):
        choose_profile(precision="int8")


@pytest.mark.usefixtures("only_cpu")
def test_the_hash_is_of_what_changes_numbers() -> None:
    first = choose_profile(num_workers=1)
    assert first.hash == choose_profile(num_workers=5).hash
    assert first.hash != choose_profile(deterministic=True, num_workers=1).hash
    assert first.hash != choose_profile(num_workers=1, num_threads=first.num_threads + 1).hash


@pytest.mark.usefixtures("only_cpu")
def test_a_seeded_run_is_eager() -> None:
    assert not choose_profile(training(), deterministic=True).compile


def test_the_precision_is_that_of_the_network_inside_the_context() -> None:
    x = torch.ones(1, 1, 3, 3)
    for precision in ("float32", "bfloat16"):
        profile = choose_profile(device="cpu", precision=precision)
        with profile.autocast():
            assert torch.nn.functional.conv2d(x, x).dtype is getattr(torch, precision)


def test_facts_of_the_machine() -> None:
    assert num_usable_cores() >= 1
    assert cpu_features() <= {"amx_bf16", "avx512_bf16"}


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize(("precision", "channels_last"), [("float32", False), ("bfloat16", True)])
def test_the_layout_on_a_cpu_follows_the_precision(precision: str, channels_last: bool) -> None:
    assert choose_profile(training(), precision=precision).channels_last is channels_last


def test_the_profile_of_a_training_follows_the_plan(make_fingerprint: Callable[..., Fingerprint]) -> None:
    fingerprint = make_fingerprint([(36, 50, 35)] * 30, [(1.0, 1.0, 1.0)] * 30, channels=("MRI",))
    plans = {
        seed: make_plan(fingerprint, "nnunet@2.8.0", overrides={"training.seed": seed}) for seed in (None, 7)
    }
    seeded, free = (Profile.for_training(plans[seed], device="cpu", num_threads=None) for seed in (7, None))
    assert (seeded.deterministic, free.deterministic) == (True, False)
    assert seeded.num_threads == num_usable_cores()
    assert Profile.for_training(plans[7], num_threads=1).num_threads == 1
