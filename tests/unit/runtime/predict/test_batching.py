"""Sizes of batches and the place of sums, with a device whose memory is made up."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nnrules_runtime.predict.batching import BatchSizer, Unit
from nnrules_runtime.profile import choose_profile

CPU = choose_profile(device="cpu", precision="float32", num_threads=2)
CUDA = replace(CPU, device="cuda:0")
PATCH_BYTES = 100
UNITS = [Unit((number, 0, 0), ()) for number in range(150)]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(len(image))
        return image.to(torch.bfloat16)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the memory that is free on a made-up GPU, on which a patch takes 100 bytes."""
    bytes_free = [0]
    monkeypatch.setattr("nnrules_runtime.predict.batching._free_on", lambda _: bytes_free[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1000 + PATCH_BYTES)

    def set_free(number: int) -> None:
        bytes_free[0] = number

    return set_free


def inputs(batch: object) -> Tensor:
    return torch.tensor([[float(unit.index[0])] for unit in batch])  # type: ignore[attr-defined]


def run(sizer: BatchSizer, network: Network, shape: tuple[int, ...] = (3, 10)) -> list[torch.device]:
    places = []
    seen: list[float] = []
    for batch, outputs in sizer.run(network, UNITS, inputs, "case"):
        assert outputs.dtype == torch.float32
        assert outputs[:, 0].tolist() == [unit.index[0] for unit in batch]
        seen += outputs[:, 0].tolist()
        if not places:
            places.append(sizer.place_of_sums(shape, torch.float16, torch.zeros(1), "case"))
    assert seen == [unit.index[0] for unit in UNITS]
    return places


@pytest.mark.parametrize(
    ("patch", "threads", "size"),
    [
        ((1, 56, 40), 1, 16),
        ((40, 56, 40), 2, 1),
        ((128, 128, 128), 2, 1),
        ((40, 56, 40), 64, 32),
        ((1, 8, 8), 64, 64),
    ],
)
def test_cpu(patch: tuple[int, ...], threads: int, size: int) -> None:
    assert BatchSizer(replace(CPU, num_threads=threads), patch).size == size


def test_gpu_is_measured_with_one_patch(free: Callable[[int], None]) -> None:
    free(10_000)
    sizer, network = BatchSizer(CUDA, (8, 8, 8)), Network()
    assert run(sizer, network) == [torch.device("cuda:0")]
    # 35 % of what is left beside a patch and the sums hold 34 patches.
    assert network.sizes == [1, *[32] * 4, 21]
    network = Network()
    run(sizer, network)
    assert network.sizes == [*[32] * 4, 22]


def test_sums_that_do_not_fit_stay_on_the_host(free: Callable[[int], None]) -> None:
    free(10_000)
    sizer = BatchSizer(CUDA, (8, 8, 8))
    assert run(sizer, Network(), (3, 1200)) == [torch.device("cpu")]
    free(20_000)
    assert run(sizer, Network(), (3, 1200)) == [torch.device("cuda:0")]


def test_little_memory_means_single_patches(free: Callable[[int], None]) -> None:
    free(250)
    network = Network()
    run(BatchSizer(CUDA, (8, 8, 8)), network)
    assert set(network.sizes) == {1}


def test_other_devices_take_one_patch() -> None:
    assert BatchSizer(replace(CPU, device="mps"), (8, 8, 8)).size == 1
