"""The loss: against formulas written out, its gradient, and what it refuses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.errors import Problem
from torch import Tensor
from torch.nn import functional

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.train import loss_statistics
from nnrules_runtime.train.loss import Loss
from nnrules_runtime.train.loss_targets import TargetMaker, nearest
from nnrules_runtime.values import Section

LABELS = LabelSet(
    heads=((0,), (1,), (2,)),
    head_names=("background", "organ", "tumour"),
    has_regions=False,
    regions_class_order=None,
    ignore_label=None,
    foreground_labels=(1, 2),
)
LABELS_IGNORE = LabelSet(
    heads=((0,), (1,), (2,)),
    head_names=("background", "organ", "tumour"),
    has_regions=False,
    regions_class_order=None,
    ignore_label=3,
    foreground_labels=(1, 2),
)
REGIONS = LabelSet(
    heads=((1, 2), (2,)),
    head_names=("whole", "core"),
    has_regions=True,
    regions_class_order=(1, 2),
    ignore_label=None,
    foreground_labels=(1, 2),
)
REGIONS_IGNORE = LabelSet(
    heads=((1, 2), (2,)),
    head_names=("whole", "core"),
    has_regions=True,
    regions_class_order=(1, 2),
    ignore_label=3,
    foreground_labels=(1, 2),
)


def plan(
    labels: LabelSet,
    *,
    terms: Mapping[str, float] = {"dice": 1, "cross_entropy": 1},
    head_weights: Sequence[float] | None = (1,),
    enabled: bool = True,
    batch_dice: bool = False,
    reduction: str = "mean_over_valid_voxels",
    activation: str | None = None,
    class_weights: Sequence[float] | None = None,
    share: float = 0.1,
    **dice: Any,
) -> dict[str, Any]:
    activation = activation or ("sigmoid" if labels.has_regions else "softmax")
    return {
        "architecture": {"deep_supervision": {"enabled": enabled}},
        "loss": {
            "terms": [{"name": name, "weight": weight} for name, weight in terms.items()],
            "batch_dice": batch_dice,
            "dice": {
                "activation": activation,
                "include_background": labels.has_regions,
                "smooth": 1e-5,
                "denominator_offset": 0,
                "denominator_floor": 1e-8,
                "squared": False,
                "ignored_voxels": "masked",
                **dice,
            },
            "cross_entropy": {
                "activation": activation,
                "class_weights": class_weights,
                "reduction": reduction,
            },
            "top_k_cross_entropy": {"share": share},
            "deep_supervision": {
                "weights": head_weights,
                "target_interpolation": "nearest",
                "target_shape_rounding": "half_to_even",
            },
        },
    }


def make(labels: LabelSet, **options: Any) -> Loss:
    problems: list[Problem] = []
    loss = Loss.from_plan(Section(plan(labels, **options), "", problems), labels)
    assert problems == []
    return loss


def problems_of(labels: LabelSet, document: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    Loss.from_plan(Section(document, "", problems), labels)
    return problems


def example(labels: LabelSet, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((2, labels.num_heads, 4, 5, 3), generator=generator, dtype=dtype) * 3
    highest = 3 if labels.ignore_label is None else 4
    return logits, torch.randint(0, highest, (2, 4, 5, 3), generator=generator, dtype=torch.int16)


def one_hot(target: Tensor, labels: LabelSet) -> tuple[Tensor, Tensor]:
    """Reference ``(B, K, ...)`` and mask ``(B, 1, ...)`` as numbers, from the label map."""
    heads = [sum((target == value).double() for value in head) for head in labels.heads]
    valid = torch.ones_like(target) if labels.ignore_label is None else target != labels.ignore_label
    return torch.stack(heads, 1), valid[:, None].double()  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_dice_is_its_formula(labels: LabelSet, batch_dice: bool, squared: bool) -> None:
    logits, target = example(labels, dtype=torch.float64)
    loss = make(
        labels,
        terms={"dice": 0.5},
        batch_dice=batch_dice,
        squared=squared,
        smooth=0.25,
        denominator_offset=0.5,
        denominator_floor=3.0,
    )
    y, valid = one_hot(target, labels)
    p = (torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, 1)) * valid
    y = y * valid
    if not labels.has_regions:
        p, y = p[:, 1:], y[:, 1:]
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    size = (p**2 if squared else p).sum(axes) + y.sum(axes)
    expected = (2 * (p * y).sum(axes) + 0.25) / (size + 0.25 + 0.5).clamp_min(3.0)
    torch.testing.assert_close(loss(logits, target), -0.5 * expected.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("labels", [LABELS, LABELS_IGNORE])
@pytest.mark.parametrize("class_weights", [None, [0.5, 1.5, 4.0]])
def test_cross_entropy_is_torchs(labels: LabelSet, class_weights: list[float] | None) -> None:
    logits, target = example(labels, dtype=torch.float64)
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
    expected = functional.cross_entropy(logits, target.long(), weight=weights, ignore_index=3)
    options: dict[str, Any] = {"terms": {"cross_entropy": 1}, "class_weights": class_weights}
    found = make(labels, **options)(logits, target)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    share = (target != 3).double().mean()
    found = make(labels, **options, reduction="mean")(logits, target)
    torch.testing.assert_close(found, expected * share, rtol=1e-12, atol=0)


@pytest.mark.parametrize("labels", [REGIONS, REGIONS_IGNORE])
@pytest.mark.parametrize("class_weights", [None, [0.5, 1.5]])
def test_cross_entropy_of_regions_is_torchs(labels: LabelSet, class_weights: list[float] | None) -> None:
    logits, target = example(labels, dtype=torch.float64)
    y, valid = one_hot(target, labels)
    weights = torch.tensor(class_weights or [1.0, 1.0], dtype=torch.float64)
    entropy = functional.binary_cross_entropy_with_logits(logits, y, reduction="none") * valid
    total = (entropy * weights[:, None, None, None]).sum()
    expected = {
        "mean": total / (target.numel() * weights.sum()),
        "mean_over_valid_voxels": total / (valid.sum() * weights.sum()),
        "sum_over_heads_mean_over_valid_voxels": total / valid.sum(),
    }
    for reduction, value in expected.items():
        loss = make(labels, terms={"cross_entropy": 1}, reduction=reduction, class_weights=class_weights)
        torch.testing.assert_close(loss(logits, target), value, rtol=1e-12, atol=0)


def test_sigmoid_without_regions_asks_each_label() -> None:
    logits, target = example(LABELS, dtype=torch.float64)
    y, _ = one_hot(target, LABELS)
    expected = functional.binary_cross_entropy_with_logits(logits, y)
    loss = make(LABELS, terms={"cross_entropy": 1}, activation="sigmoid")
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("labels", [LABELS, LABELS_IGNORE, REGIONS])
@pytest.mark.parametrize(("share", "count"), [(0.29, 34), (0.1, 12), (1, 120), (0, 1)])
def test_top_k_takes_the_worst_voxels(labels: LabelSet, share: float, count: int) -> None:
    logits, target = example(labels, dtype=torch.float64)
    y, valid = one_hot(target, labels)
    if labels.has_regions:
        entropy = functional.binary_cross_entropy_with_logits(logits, y, reduction="none").mean(1)
    else:
        entropy = -(torch.log_softmax(logits, 1) * y).sum(1)
    worst = (entropy * valid[:, 0]).flatten().sort(descending=True).values[:count]
    loss = make(labels, terms={"top_k_cross_entropy": 1}, share=share)
    torch.testing.assert_close(loss(logits, target), worst.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("labels", [LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient(
    labels: LabelSet, batch_dice: bool, squared: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numeric derivatives, in parts of samples as a large patch is worked through."""
    monkeypatch.setattr(loss_statistics, "_BLOCK_NUMBERS_CPU", 70)
    loss = make(
        labels,
        batch_dice=batch_dice,
        squared=squared,
        terms={"dice": 0.7, "cross_entropy": 1.3},
        class_weights=[0.5, 2.0, 3.0][: labels.num_heads] if weighted else None,
    )
    logits, target = example(labels, dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("labels", [LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE])
@pytest.mark.parametrize("numbers", [1, 50, 100, 400, 10**6])
def test_blocks_do_not_matter(labels: LabelSet, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = make(labels, class_weights=[0.5, 2.0, 3.0][: labels.num_heads], squared=True)
    results = []
    for budget in (1 << 18, numbers):
        monkeypatch.setattr(loss_statistics, "_BLOCK_NUMBERS_CPU", budget)
        logits, target = example(labels, dtype=torch.float64)
        value = loss(logits.requires_grad_(), target)
        value.backward()
        results.append((value.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("labels", [LABELS, LABELS_IGNORE, REGIONS, REGIONS_IGNORE])
def test_compiled_is_the_same(labels: LabelSet) -> None:
    """One graph, whose operations autograd differentiates itself."""
    loss = make(
        labels, head_weights=(0.75, 0.25, 0), squared=True, class_weights=[1.0, 2.0, 3.0][: labels.num_heads]
    )
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    results = []
    for function in (loss, compiled):
        logits, target = example(labels)
        levels = [
            logits.requires_grad_(),
            logits.detach()[:, :, ::2, 1::3, 1::3].clone().requires_grad_(),
            None,
        ]
        value = function(levels, target)
        value.backward()
        results.append((value.detach(), levels[0].grad, levels[1].grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    """The loss of rounded logits is exact, also below autocast; their gradient is rounded once."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((1, 3, 32, 64, 64), generator=generator).to(dtype)
    target = torch.randint(0, 3, (1, 32, 64, 64), generator=generator, dtype=torch.int16)
    exact = logits.double().requires_grad_()
    rounded = logits.clone().requires_grad_()
    loss = make(LABELS)
    expected = loss(exact, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(rounded, target)
        (found * 65536).backward()  # as a loss scaler does, so that small gradients survive
    expected.backward()
    assert found.dtype == torch.float32
    assert abs(found.item() / expected.item() - 1) < 1e-5
    assert rounded.grad is not None
    assert exact.grad is not None
    assert rounded.grad.dtype == dtype
    torch.testing.assert_close(rounded.grad.double() / 65536, exact.grad, rtol=1e-2, atol=1e-9)


def test_large_logits_stay_finite() -> None:
    for labels in (LABELS, REGIONS):
        logits = torch.full((1, labels.num_heads, 2, 2, 2), -200.0)
        logits[:, 0] = 200.0
        target = torch.full((1, 2, 2, 2), 2, dtype=torch.int16)
        value = make(labels)(logits.requires_grad_(), target)
        value.backward()
        assert value.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_levels_are_weighted_and_skipped() -> None:
    loss = make(LABELS, head_weights=(0.5, 0.3, 0.2, 0))
    assert loss.active_heads == (0, 1, 2)
    logits = [torch.randn((2, 3, *([edge] * 3))) for edge in (8, 4, 2)]
    target = torch.randint(0, 3, (2, 8, 8, 8), dtype=torch.int16)
    targets = [target, target[:, 1::2, 1::2, 1::2], target[:, 2::4, 2::4, 2::4]]
    alone = make(LABELS)
    expected = sum(
        weight * alone(*pair) for weight, *pair in zip((0.5, 0.3, 0.2), logits, targets, strict=True)
    )
    torch.testing.assert_close(loss([*logits, None], target), expected)
    torch.testing.assert_close(loss(logits[0], target), alone(logits[0], target))


def test_memory_format_and_dimension_do_not_matter() -> None:
    logits, target = example(LABELS)
    loss = make(LABELS)
    last = logits.clone().to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(loss(last, target), loss(logits, target))
    flat, flat_target = logits.flatten(2, 3), target.flatten(1, 2)
    torch.testing.assert_close(loss(flat, flat_target), loss(logits, target))


def test_labels_with_gaps_are_numbered() -> None:
    labels = LabelSet(
        heads=((0,), (2,), (7,)),
        head_names=("background", "a", "b"),
        has_regions=False,
        regions_class_order=None,
        ignore_label=9,
        foreground_labels=(2, 7),
    )
    logits, target = example(LABELS_IGNORE)
    renamed = torch.tensor([0, 2, 7, 9], dtype=torch.int16)[target.long()]
    torch.testing.assert_close(make(labels)(logits, renamed), make(LABELS_IGNORE)(logits, target))


@given(
    edge=st.integers(1, 64),
    smaller=st.integers(1, 64),
)
@settings(deadline=None, max_examples=200)
def test_nearest_takes_the_voxel_at_the_same_place(edge: int, smaller: int) -> None:
    smaller = min(edge, smaller)
    line = torch.arange(edge)[None]
    found = nearest(line, [smaller])[0]
    expected = [int(np.floor(np.nextafter((j + 0.5) * edge / smaller, np.inf))) for j in range(smaller)]
    assert found.tolist() == expected


def test_nearest_on_each_axis() -> None:
    labels = torch.arange(2 * 6 * 9 * 8).view(2, 6, 9, 8)
    expected = functional.interpolate(labels[:, None].double(), (3, 5, 8), mode="nearest-exact")[:, 0]
    assert torch.equal(nearest(labels, (3, 5, 8)), expected.long())


def test_target_maker_has_no_state() -> None:
    assert TargetMaker(REGIONS, by_head=True).state_dict() == {}
    assert make(REGIONS, class_weights=[1, 2]).state_dict() == {}


def test_no_weights_are_refused() -> None:
    found = problems_of(LABELS, plan(LABELS, head_weights=None))
    assert [problem.where for problem in found] == ["plan: loss.deep_supervision.weights"]
    assert "zero by zero" in found[0].what
    assert "--set" in str(found[0].fix)
    # Without deep supervision the weights do not count.
    loss = make(LABELS, head_weights=None, enabled=False)
    assert loss.active_heads == (0,)


def test_unknown_values_are_refused_together() -> None:
    document = plan(REGIONS, activation="softmax", reduction="median", class_weights=[1, 2, 3])
    document["loss"]["terms"].append({"name": "focal", "weight": 1})
    document["loss"]["deep_supervision"]["target_interpolation"] = "linear"
    found = {problem.where: problem for problem in problems_of(REGIONS, document)}
    assert set(found) == {
        "plan: loss.dice.activation",
        "plan: loss.cross_entropy.activation",
        "plan: loss.cross_entropy.reduction",
        "plan: loss.cross_entropy.class_weights",
        "plan: loss.terms[2].name",
        "plan: loss.deep_supervision.target_interpolation",
    }
    assert "'top_k_cross_entropy'" in str(found["plan: loss.terms[2].name"].expected)


def _rank(rank: int, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    store_ = torch.distributed.FileStore(store, 2)
    torch.distributed.init_process_group("gloo", store=store_, rank=rank, world_size=2)
    logits, target = example(LABELS, dtype=torch.float64)
    mine = logits[rank : rank + 1].clone().requires_grad_()
    value = make(LABELS, batch_dice=True, terms={"dice": 1})(mine, target[rank : rank + 1])
    value.backward()
    assert mine.grad is not None
    results.put((rank, value.item(), mine.grad.numpy()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_batch_dice_spans_ranks(tmp_path: Path) -> None:
    """Each rank has the Dice of the whole batch, and the mean of the ranks' gradients is that of one process."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_rank, args=(rank, str(tmp_path / "store"), results)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = {rank: rest for rank, *rest in (results.get(timeout=120) for _ in processes)}
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    logits, target = example(LABELS, dtype=torch.float64)
    expected = make(LABELS, batch_dice=True, terms={"dice": 1})(logits.requires_grad_(), target)
    expected.backward()
    assert logits.grad is not None
    for rank, (value, gradient) in found.items():
        assert value == pytest.approx(expected.item(), rel=1e-12)
        np.testing.assert_allclose(gradient[0] / 2, logits.grad[rank].numpy(), rtol=1e-9, atol=1e-15)
