"""Whether the network of a plan takes the plan's channels and gives its labels."""

from __future__ import annotations

from nnrules_runtime.labels import LabelSet
from nnrules_runtime.values import Section

__all__ = ["check_network_fits"]


def check_network_fits(root: Section, configuration: Section, labels: LabelSet) -> None:
    """Refuse a network whose inputs or outputs are not those of the dataset: somebody has edited the plan.

    The second stage of a cascade gets, beside the channels, one input for each label of the first stage
    (Supplement E.2 of the paper).

    Args:
        root: the plan.
        configuration: ``configurations.NAME`` of it.
        labels: the plan's labels.
    """
    architecture = configuration.section("architecture")
    num_channels = len(root.sections("channels"))
    if "previous_stage" in configuration:
        num_channels += len(labels.foreground_labels)
    expected = {
        "num_input_channels": (num_channels, "a network has one input for each channel of the dataset"),
        "num_output_channels": (labels.num_heads, "a network has one output for each label or region"),
    }
    for field, (number, what) in expected.items():
        if architecture.value(field) != number:
            architecture.refuse(
                field, what, got=repr(architecture.value(field)), expected=str(number),
                fix="Plan again rather than editing the plan.",
            )  # fmt: skip
