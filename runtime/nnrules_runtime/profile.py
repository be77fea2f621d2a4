"""How a plan is executed here: device, precision, memory format, compilation, threads, workers.

The profile never changes what is computed, only how: another profile gives other rounding. It is chosen from what
the machine has, logged with its reasons, and every part of it can be overridden.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from nnrules.documents import content_hash
from nnrules.errors import Problem, UsageError
from nnrules.plan import Plan

from nnrules_runtime.values import Section, reading

__all__ = ["PRECISIONS", "Profile", "choose_profile", "cpu_features", "keep_freed_memory", "num_usable_cores"]

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Precisions of the network's forward and backward pass; parameters and sums stay float32."""

# Compiling takes about a minute on CUDA: it pays from about this many steps.
_STEPS_THAT_PAY_FOR_COMPILATION = 500
_MAX_WORKERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How to execute.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: a key of :data:`PRECISIONS`, for the network; everything else is float32.
        channels_last: whether activations are stored with channels innermost.
        compile: whether the network and the loss go through ``torch.compile``.
        num_threads: threads of one operator on the CPU.
        num_workers: processes that prepare batches; 0 prepares them in the main process.
        deterministic: whether only operators are used whose result does not vary from run to run.
        reasons: why each field is what it is; not part of the hash.
    """

    device: str
    precision: str
    channels_last: bool
    compile: bool
    num_threads: int
    num_workers: int
    deterministic: bool
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def for_training(cls, plan: Plan, **given: Any) -> Profile:
        """The profile of a training of a plan: seeded if the plan has a seed, compiled if it has enough steps.

        Args:
            plan: the plan.
            given: parts to choose otherwise, see :func:`choose_profile`; those that are ``None`` are chosen.

        Raises:
            UsageError: a device or a precision that is not there.
        """
        with reading(plan) as root:
            training = root.section("training")
            return choose_profile(
                training,
                deterministic=training.value("seed") is not None,
                num_steps=training.value("epochs") * training.value("num_iterations_per_epoch"),
                **given,
            )

    @property
    def device_type(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""
        return self.device.split(":")[0]

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a torch dtype."""
        return PRECISIONS[self.precision]

    @property
    def scales_loss(self) -> bool:
        """Whether gradients need a loss scale: float16 alone has too few exponents."""
        return self.precision == "float16" and self.device_type == "cuda"

    @property
    def hash(self) -> str:
        """Hash of all that can change rounding; workers can't."""
        document = self.to_json()
        del document["num_workers"]
        return content_hash(document)

    def to_json(self) -> dict[str, Any]:
        """The fields without their reasons."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "reasons"}

    def lines(self) -> tuple[str, ...]:
        """One line a field with its reason, for logs."""
        return tuple(
            f"{name}: {value} ({self.reasons.get(name, 'given')})" for name, value in self.to_json().items()
        )

    def memory_format(self, dim: int) -> torch.memory_format:
        """The layout of batches of ``dim`` spatial axes."""
        if not self.channels_last:
            return torch.contiguous_format
        return torch.channels_last if dim == 2 else torch.channels_last_3d

    def autocast(self) -> torch.autocast:
        """Context in which the network runs."""
        enabled = self.precision != "float32"
        return torch.autocast(self.device_type, dtype=self.dtype if enabled else None, enabled=enabled)

    def apply(self) -> None:
        """Set the process-wide switches of torch: threads, determinism, the choice of convolution algorithms."""
        torch.set_num_threads(self.num_threads)
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by torch on CUDA
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.deterministic = self.deterministic
        torch.backends.cudnn.benchmark = not self.deterministic


def keep_freed_memory() -> None:
    """Let the C library keep what was freed, instead of giving it back and asking for it anew at every step.

    Activations of a CPU training are tens of megabytes each, and their page faults cost a sixth of a step. Only
    glibc has the switches; elsewhere nothing happens. The process then never shrinks: for trainings only.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def num_usable_cores() -> int:
    """Cores that this process may use: affinity and the control group's quota, whichever is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    try:
        allowed, period = quota.read_text().split()[:2]
        if allowed != "max":
            cores = min(cores, max(1, int(allowed) // int(period)))
    except (OSError, ValueError):
        pass  # no control group of version 2
    return max(1, cores)


def cpu_features() -> frozenset[str]:
    """Features of the processor that decide the precision: ``amx_bf16``, ``avx512_bf16``, or none."""
    known = {"amx_bf16", "avx512_bf16"}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return frozenset(known.intersection(flags))


def choose_profile(
    training: Section | None = None,
    *,
    device: str | None = None,
    precision: str | None = None,
    compile: bool | None = None,  # noqa: A002 - the word that torch and its users have for it
    channels_last: bool | None = None,
    num_threads: int | None = None,
    num_workers: int | None = None,
    deterministic: bool = False,
    num_steps: int | None = None,
) -> Profile:
    """Choose what fits the machine; whatever is given is taken.

    Args:
        training: the plan's ``training`` section, whose ``mixed_precision`` says where and how; ``None``: float32
            on CUDA unless given.
        device: where to run; default: CUDA, then MPS, then CPU.
        precision: a key of :data:`PRECISIONS`.
        compile: whether to compile.
        channels_last: memory format.
        num_threads: threads of one operator.
        num_workers: processes that prepare batches.
        deterministic: for seeded runs: eager, the same result each time.
        num_steps: forward passes that are expected; compilation must pay within them.

    Raises:
        UsageError: a device or a precision that is not there.
    """
    reasons: dict[str, str] = {}

    def pick(name: str, given: Any, chosen: Any, why: str) -> Any:
        reasons[name] = "given" if given is not None else why
        return chosen if given is None else given

    found, why_device = _available_device()
    device = _checked_device(pick("device", device, found, why_device))
    device_type = device.split(":")[0]
    wanted, why_precision = _precision(training, device_type)
    precision = pick("precision", precision, wanted, why_precision)
    if precision not in PRECISIONS:
        problem = Problem(
            where="--precision", what="unknown precision", got=str(precision), expected=", ".join(PRECISIONS)
        )
        raise UsageError(problem)
    cores = num_usable_cores()
    last, why_last = _layout(device_type, precision)
    compiles, why_compile = _compilation(device_type, deterministic=deterministic, num_steps=num_steps)
    workers = 1 if device_type == "cpu" else min(_MAX_WORKERS, max(1, cores - 1))
    return Profile(
        device=device,
        precision=precision,
        channels_last=pick("channels_last", channels_last, last, why_last),
        compile=pick("compile", compile, compiles, why_compile),
        num_threads=pick("num_threads", num_threads, cores, f"{cores} usable cores"),
        num_workers=pick("num_workers", num_workers, workers, f"{cores} usable cores"),
        deterministic=deterministic,
        reasons={**reasons, "deterministic": "seeded" if deterministic else "no seed"},
    )


def _available_device() -> tuple[str, str]:
    if torch.cuda.is_available():
        return "cuda", "CUDA is available"
    if torch.backends.mps.is_available():
        return "mps", "MPS is available"
    return "cpu", "neither CUDA nor MPS is available"


def _checked_device(device: str) -> str:
    kind, _, index = device.partition(":")
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    known = available.get(kind, 0)
    if known and (not index or (index.isdigit() and int(index) < known)):
        return device
    present = [f"{name}:{number}" for name, count in available.items() for number in range(count)]
    raise UsageError(
        Problem(
            where="--device",
            what="this device is not here",
            got=device,
            expected="one of " + ", ".join(["cpu", *(name for name in present if name != "cpu:0")]),
        )
    )


def _precision(training: Section | None, device_type: str) -> tuple[str, str]:
    if device_type == "cpu":
        features = cpu_features()
        if features:
            return "bfloat16", f"{platform.machine()} with {', '.join(sorted(features))}"
        return "float32", "the processor has no bfloat16 units"
    mixed = training.optional("mixed_precision") if training is not None else None
    if mixed is not None and device_type in mixed.value("device_types"):
        return mixed.value("dtype"), "the plan's training.mixed_precision"
    return "float32", f"the plan has no mixed precision on {device_type}"


def _layout(device_type: str, precision: str) -> tuple[bool, str]:
    if device_type == "cpu" and precision == "float32":
        # Measured: a tenth faster with channels innermost, but torch's norm kernels then sum so coarsely that logits
        # are off by 3e-3 instead of 1e-5.
        return False, "norms are more accurate with voxels innermost"
    if device_type == "cpu":
        return True, "convolutions of oneDNN need no reordering then"
    if device_type == "cuda" and precision != "float32":
        return True, "tensor cores read channels innermost"
    return False, "no gain on this device"


def _compilation(device_type: str, *, deterministic: bool, num_steps: int | None) -> tuple[bool, str]:
    if deterministic:
        return False, "seeded runs are eager"
    if device_type == "mps":
        return False, "not supported well on MPS"
    if device_type == "cpu":
        # Measured on two cores with AMX, Hippocampus network: 1.1 s a step instead of 1.2 s, after 50 s of compiling.
        return False, "eager is as fast on a CPU and starts at once"
    if num_steps is not None and num_steps < _STEPS_THAT_PAY_FOR_COMPILATION:
        return (
            False,
            f"{num_steps} steps are fewer than {_STEPS_THAT_PAY_FOR_COMPILATION}, which would pay for it",
        )
    return True, "enough steps to pay for it" if num_steps is not None else "available"
