"""A compiled pack: its nodes in evaluation order, and the generated functions."""

from __future__ import annotations

import builtins
import marshal
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnrules.engine.digest import digest_of
from nnrules.engine.model import Fact, Pack, Rule
from nnrules.engine.source import Place
from nnrules.engine.types import Type
from nnrules.functions import BUILTINS
from nnrules.functions.numbers import power

__all__ = ["PLACEHOLDER", "AtMostReachedError", "Node", "Program", "generated_namespace", "placeholders"]

_MAX_TOTAL_ROUNDS = 3_000_000
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class AtMostReachedError(Exception):
    """A loop that did not stop; carries the function and its limit."""


def _at_most_reached(function: str, limit: int) -> None:
    raise AtMostReachedError(function, limit)


def _nothing_selected() -> None:
    raise ValueError("the selection v[mask] holds no axis")


def _spend(memo: dict[Any, Any], rounds: int, function: str) -> None:
    """Count a call and the rounds of its loop: limits of single loops multiply when loops call loops."""
    memo["spent"] = spent = memo.get("spent", 0) + rounds + 1
    if spent > _MAX_TOTAL_ROUNDS:
        raise OverflowError(
            f"its loops and functions take more than {_MAX_TOTAL_ROUNDS} rounds and calls, the last one in '{function}'"
        )


def _too_large() -> None:
    raise OverflowError("a product is too large for any number")


def generated_namespace() -> dict[str, Any]:
    """What generated code may call: builtins of the rule language, and a fixed few of Python's."""
    return {
        "__builtins__": {
            name: getattr(builtins, name)
            for name in ("abs", "int", "len", "max", "min", "range", "round", "sorted", "tuple")
        },
        "dumps": marshal.dumps,
        "ceil": math.ceil,
        "floor": math.floor,
        "trunc": math.trunc,
        "log": math.log,
        "inf": math.inf,
        "power": power,
        "as_row": np.asarray,
        "nothing_selected": _nothing_selected,
        "too_large": _too_large,
        "spend": _spend,
        "at_most_reached": _at_most_reached,
        **{f"builtin_{name}": entry.call for name, entry in BUILTINS.items()},
    }


@dataclass(slots=True, eq=False)
class Node:
    """One decision or fact, compiled for one configuration.

    Attributes:
        id: ``rule id`` or ``fact name``, with the configuration where there is one.
        rule, fact: what it came from; exactly one is set.
        configuration: the configuration, or None.
        keys: environment keys of its values, one a decided field.
        types: their types.
        case_types: the types of each case's values, by case index.
        reads: names read → environment key, in the order of first use.
        params: parameters read, directly or in functions.
        needs: the nodes that must be evaluated before.
        code_name: the Python function.
        needs_presence: configurations whose presence it asks for.
    """

    id: str
    rule: Rule | None
    fact: Fact | None
    configuration: str | None
    keys: tuple[str, ...]
    types: tuple[Type, ...] = ()
    case_types: dict[int, tuple[Type, ...]] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    read_types: dict[str, Type] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    needs: list[Node] = field(default_factory=list)
    code_name: str = ""
    texts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    inherited: Node | None = None
    inherited_key: str | None = None
    constant: tuple[Any, ...] | None = None

    @property
    def place(self) -> Place:
        """Where the rule or fact stands."""
        owner = self.rule or self.fact
        assert owner is not None
        return owner.place


@dataclass(slots=True)
class Program:
    """A compiled pack.

    Attributes:
        pack: the pack.
        order: decisions in an order in which each comes after what it needs.
        by_key: the node that gives each environment key.
        namespace: the compiled functions.
        places: the rule-file place of each line of generated code.
        aliases: for a configuration that inherits, its own keys → the parent's keys.
    """

    pack: Pack
    order: list[Node]
    by_key: dict[str, Node]
    types: dict[str, Type]
    namespace: dict[str, Any]
    places: list[Place | None]
    aliases: dict[str, str]
    filename: str
    _digests: dict[str, str] = field(default_factory=dict)

    def digest(self, node: Node) -> str:
        """Hash of what a node's rule or fact computes; see :mod:`nnrules.engine.digest`."""
        owner = node.rule or node.fact
        assert owner is not None
        if node.id not in self._digests:
            self._digests[node.id] = digest_of(owner, self.pack)
        return self._digests[node.id]

    def place_of(self, error: BaseException) -> Place | None:
        """The rule-file place of the innermost generated line in a traceback."""
        place, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.filename:
                place = self.places[trace.tb_lineno - 1] or place
            trace = trace.tb_next
        return place


def placeholders(text: str) -> list[str]:
    """The names in ``{braces}`` of a text for people."""
    return [name.strip() for name in PLACEHOLDER.findall(text)]
