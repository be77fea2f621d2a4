"""What the network's output channels mean: labels or regions, and the label that is ignored."""

from __future__ import annotations

from dataclasses import dataclass

from nnrules_runtime.values import Section

__all__ = ["LabelSet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """The labels of a dataset as its plan declares them.

    Attributes:
        heads: the label values that each output channel of the network stands for. Without regions one value a
            head, background first; with regions the values of each region, and no background head.
        head_names: the name of each head.
        has_regions: whether heads are regions, which may overlap, and are activated by a sigmoid.
        regions_class_order: the label to write for each region, in the order of the heads; later ones
            overwrite earlier ones. ``None`` without regions.
        ignore_label: the value of voxels without annotation, or ``None``.
        foreground_labels: all annotated label values but background, ascending; never the ignore label.
    """

    heads: tuple[tuple[int, ...], ...]
    head_names: tuple[str, ...]
    has_regions: bool
    regions_class_order: tuple[int, ...] | None
    ignore_label: int | None
    foreground_labels: tuple[int, ...]

    @classmethod
    def from_plan(cls, root: Section) -> LabelSet:
        """Read ``dataset.labels`` and its companions.

        Regions without a label to write for each of them are refused.
        """
        dataset = root.section("dataset")
        order: list[str] = dataset.value("label_order")
        values = dataset.section("labels")
        ignore: int | None = dataset.value("ignore_label")
        names = [name for name in order if name != "ignore"]
        entries = {name: values.value(name) for name in names}
        sets = {
            name: tuple(entry) if isinstance(entry, list) else (int(entry),)
            for name, entry in entries.items()
        }
        # nnunetv2 2.8.1: one entry with two values or more makes the whole dataset region-based.
        has_regions = any(len(entry) > 1 for entry in sets.values())
        background = [name for name in names if sets[name] == (0,)]
        heads = [name for name in names if not (has_regions and name in background)]
        if not has_regions:
            heads.sort(key=lambda name: sets[name])
        class_order = dataset.value("regions_class_order")
        if has_regions and len(class_order or ()) != len(heads):
            dataset.refuse(
                "regions_class_order",
                "one label is needed for each region",
                got=repr(class_order),
                expected=f"{len(heads)} labels, for {', '.join(heads)}",
                fix="Write regions_class_order into dataset.json and plan again.",
            )
        foreground = {value for entry in sets.values() for value in entry} - {0, ignore}
        return cls(
            heads=tuple(sets[name] for name in heads),
            head_names=tuple(heads),
            has_regions=has_regions,
            regions_class_order=tuple(class_order) if has_regions and class_order else None,
            ignore_label=ignore,
            foreground_labels=tuple(sorted(value for value in foreground if value is not None)),
        )

    @property
    def num_heads(self) -> int:
        """Number of output channels of the network."""
        return len(self.heads)

    @property
    def foreground_heads(self) -> tuple[int, ...]:
        """Indices of the heads that stand for foreground: all but background."""
        return tuple(index for index, entry in enumerate(self.heads) if entry != (0,))
