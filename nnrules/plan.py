"""The plan: a JSON document that a runtime executes and that explains itself.

Everything here works without the rules: loading, checking beyond the schema, and access by path.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnrules.documents import content_hash, read_json, write_json
from nnrules.errors import PlanError, Problem
from nnrules.schema import validate

__all__ = ["PLAN_SCHEMA_VERSION", "Plan", "leaves", "value_at"]

PLAN_SCHEMA_VERSION = "1.0"
"""Version of the document that this module reads and writes."""

_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_PATH = re.compile(r"[^.\[\]]+(\[\d+\])*(\.[^.\[\]]+(\[\d+\])*)*\Z")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a document with its dotted path.

    A list is one leaf unless it holds objects: ``channels[0].name`` is a leaf, ``patch_size`` is one.
    """
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def value_at(document: Any, path: str) -> Any:
    """The value at a dotted path such as ``configurations.2d.patch_size`` or ``channels[0].name``.

    Raises:
        KeyError: there is nothing at this path.
    """
    value = document
    for name, index in _PART.findall(path):
        if index:
            if not isinstance(value, list) or int(index) >= len(value):
                raise KeyError(path)
            value = value[int(index)]
        else:
            if not isinstance(value, dict) or name not in value:
                raise KeyError(path)
            value = value[name]
    return value


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A plan that has been checked.

    Attributes:
        document: the JSON document; not to be changed.
    """

    document: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read and check a plan file.

        Raises:
            PlanError: the file is missing or not JSON, breaks the schema, or contradicts itself.
        """
        source = Path(path)
        return cls.from_document(read_json(source, PlanError), where=str(source))

    @classmethod
    def from_document(cls, document: Any, *, where: str = "plan") -> Plan:
        """Check a parsed plan.

        Args:
            document: parsed JSON.
            where: how the document is called in errors.

        Raises:
            PlanError: every place that breaks the schema, or that contradicts another one.
        """
        version = document.get("schema_version") if isinstance(document, dict) else None
        if (
            isinstance(version, str)
            and version.split(".")[0] != PLAN_SCHEMA_VERSION.split(".", maxsplit=1)[0]
        ):
            raise PlanError(
                Problem(
                    where=f"{where}: schema_version",
                    what="this plan is of another major version",
                    got=version,
                    expected=PLAN_SCHEMA_VERSION,
                    fix="Plan again with this version of nnrules.",
                )
            )
        validate(document, "plan", where=where, error=PlanError)
        problems = list(_contradictions(document, where))
        if problems:
            raise PlanError(problems)
        return cls(document)

    def save(self, path: Path | str) -> None:
        """Write the canonical JSON atomically."""
        write_json(Path(path), dict(self.document))

    @property
    def hash(self) -> str:
        """Hash of everything but the provenance: equal hashes mean the same network, training and inference."""
        return content_hash({key: value for key, value in self.document.items() if key != "provenance"})

    @property
    def configurations(self) -> Mapping[str, Mapping[str, Any]]:
        """The planned configurations by name."""
        configurations: Mapping[str, Mapping[str, Any]] = self.document["configurations"]
        return configurations

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How each decision came about."""
        provenance: Mapping[str, Any] = self.document["provenance"]
        return provenance

    def get(self, path: str) -> Any:
        """The value at a dotted path.

        Raises:
            PlanError: there is no such field.
        """
        if _PATH.match(path):
            with contextlib.suppress(KeyError):
                return value_at(self.document, path)
        raise PlanError(
            Problem(
                where=path or "path",
                what="the plan has no such field",
                fix="`nnrules explain PLAN` lists the fields.",
            )
        )

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every field but the provenance, with its path."""
        return leaves({key: value for key, value in self.document.items() if key != "provenance"})


# -- what a schema cannot say ---------------------------------------------------------------------------------------


def _contradictions(document: Mapping[str, Any], where: str) -> Iterator[Problem]:
    configurations = document["configurations"]
    yield from _check_provenance(document["provenance"], where)
    for name, configuration in configurations.items():
        yield from _check_configuration(f"{where}: configurations.{name}", configuration, configurations)
    if len(document["channels"]) != len(document["dataset"]["channel_names"]):
        yield Problem(
            where=f"{where}: channels",
            what="one entry a channel is needed",
            got=str(len(document["channels"])),
            expected=str(len(document["dataset"]["channel_names"])),
        )


def _check_provenance(provenance: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Every parameter that a decision read is recorded."""
    read = {reference for entry in provenance["decisions"] for reference in entry.get("reads", {}).values()}
    names = (reference.removeprefix("params:") for reference in read if reference.startswith("params:"))
    for name in sorted(names):
        if name not in provenance["params"]:
            yield Problem(
                where=f"{where}: provenance.params",
                what="a parameter that decisions read is missing",
                got=f"no {name}",
                fix="The plan was changed by hand: plan again.",
            )


def _check_configuration(
    place: str, configuration: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    dim = configuration["dim"]
    architecture = configuration["architecture"]
    stages = architecture["num_stages"]
    lengths = [
        ("spacing", configuration["spacing"], dim),
        ("median_shape", configuration["median_shape"], dim),
        ("patch_size", configuration["patch_size"], dim),
        ("architecture.features_per_stage", architecture["features_per_stage"], stages),
        ("architecture.strides", architecture["strides"], stages),
        ("architecture.kernel_sizes", architecture["kernel_sizes"], stages),
        ("architecture.blocks_per_stage_encoder", architecture["blocks_per_stage_encoder"], stages),
        ("architecture.blocks_per_stage_decoder", architecture["blocks_per_stage_decoder"], stages - 1),
    ]
    lengths += [
        (f"architecture.{field}[{index}]", entry, dim)
        for field in ("strides", "kernel_sizes")
        for index, entry in enumerate(architecture[field])
    ]
    wrong = False
    for field, entries, expected in lengths:
        if len(entries) != expected:
            wrong = True
            yield Problem(
                where=f"{place}.{field}",
                what="wrong number of entries",
                got=str(len(entries)),
                expected=str(expected),
                fix="Use `nnrules plan --set` rather than an editor: it derives what depends on a change.",
            )
    if not wrong:
        yield from _check_patch(place, configuration)
    yield from _check_transpose(place, configuration)
    yield from _check_augmentation(place, configuration)
    for link in ("previous_stage", "next_stage"):
        target = configuration.get(link)
        if target is not None and target not in others:
            yield Problem(
                where=f"{place}.{link}",
                what="this stage is not in the plan",
                got=str(target),
                expected=", ".join(others),
            )


def _check_patch(place: str, configuration: Mapping[str, Any]) -> Iterator[Problem]:
    patch = configuration["patch_size"]
    divisor = [1] * len(patch)
    for stride in configuration["architecture"]["strides"]:
        divisor = [total * step for total, step in zip(divisor, stride, strict=True)]
    if any(edge % total for edge, total in zip(patch, divisor, strict=True)):
        nearest = [-(-edge // total) * total for edge, total in zip(patch, divisor, strict=True)]
        yield Problem(
            where=f"{place}.patch_size",
            what="the strides do not divide the patch",
            got=str(patch),
            expected=f"multiples of {divisor}",
            fix=f"The nearest larger patch is {nearest}.",
        )


def _check_transpose(place: str, configuration: Mapping[str, Any]) -> Iterator[Problem]:
    forward, backward = configuration["transpose_forward"], configuration["transpose_backward"]
    axes = [0, 1, 2]
    if sorted(forward) != axes:
        yield Problem(where=f"{place}.transpose_forward", what="each axis must stand once", got=str(forward))
    elif [forward.index(axis) for axis in axes] != backward:
        yield Problem(
            where=f"{place}.transpose_backward",
            what="this does not undo transpose_forward",
            got=str(backward),
            expected=str([forward.index(axis) for axis in axes]),
        )


def _check_augmentation(place: str, configuration: Mapping[str, Any]) -> Iterator[Problem]:
    augmentation = configuration.get("augmentation", {})
    transforms = augmentation.get("transforms", {})
    # A transform that no order names keeps its parameters unused: that is how a variant switches one off.
    for field in ("order", "validation_order"):
        for name in augmentation.get(field, []):
            if name not in transforms:
                yield Problem(
                    where=f"{place}.augmentation.{field}",
                    what="a transform without parameters",
                    got=name,
                    expected="an entry of augmentation.transforms",
                )
