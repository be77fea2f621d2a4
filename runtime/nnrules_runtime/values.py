"""Reading a plan: every value is either a parameter or one of the choices that the runtime knows.

A component takes its :class:`Section` of the plan and asks it for values. A choice that has no code behind it is
noted with the values that have, reading goes on, and :func:`reading` raises them all together before anything runs::

    with reading(plan) as root:
        section = root.section("configurations").section("3d_fullres").section("loss")
        dice = section.section("dice").choice("activation", {"softmax": softmax, "sigmoid": sigmoid})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from nnrules.errors import PlanError, Problem
from nnrules.plan import Plan

__all__ = ["Section", "reading"]

_T = TypeVar("_T")


class Section:
    """One object of a plan, with its path.

    Args:
        values: the JSON object; not to be changed.
        path: where it stands in the plan.
        problems: where unknown values are noted.
    """

    __slots__ = ("_problems", "_values", "path")

    def __init__(self, values: Mapping[str, Any], path: str, problems: list[Problem]) -> None:
        self._values = values
        self.path = path
        self._problems = problems

    def __contains__(self, key: str) -> bool:
        """Whether the plan has this field, with a value other than null."""
        return self._values.get(key) is not None

    def keys(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(self._values)

    def value(self, key: str) -> Any:
        """A parameter: any value that the schema admits."""
        if key not in self._values:
            self.refuse(key, "the runtime needs this field", got="no such field")
            return None
        return self._values[key]

    def section(self, key: str) -> Section:
        """An object below this one."""
        value = self._values.get(key)
        if not isinstance(value, Mapping):
            self.refuse(key, "the runtime needs this field", got=repr(value))
            value = {}
        return Section(value, f"{self.path}.{key}" if self.path else key, self._problems)

    def optional(self, key: str) -> Section | None:
        """An object below this one, or ``None`` where the plan has none or null."""
        return self.section(key) if key in self else None

    def sections(self, key: str) -> list[Section]:
        """The objects of a list below this one."""
        place = f"{self.path}.{key}" if self.path else key
        entries = self._values.get(key) or []
        return [Section(entry, f"{place}[{index}]", self._problems) for index, entry in enumerate(entries)]

    def choice(self, key: str, known: Mapping[Any, _T]) -> _T:
        """What the runtime has for a named choice.

        Args:
            key: the field. A list in the plan is looked up as a tuple.
            known: code (or anything else) for each value that the runtime knows; not empty.

        Returns:
            The entry of ``known``. For an unknown value the first entry: the error follows when reading ends.
        """
        value = self._values.get(key)
        value = tuple(value) if isinstance(value, list) else value
        if value in known:
            return known[value]
        self.refuse(
            key,
            "the runtime does not know this value",
            got=repr(value),
            expected="one of " + ", ".join(repr(name) for name in known),
        )
        return next(iter(known.values()))

    def require(self, key: str, *known: Any) -> Any:
        """A field of which the runtime knows some values and whose value itself is wanted."""
        return self.choice(key, {(tuple(name) if isinstance(name, list) else name): name for name in known})

    def refuse(
        self, key: str, what: str, *, got: str, expected: str | None = None, fix: str | None = None
    ) -> None:
        """Note a value that cannot be executed."""
        fix = fix or "Plan again with a pack of this version of nnrules, or override the field with --set."
        where = f"{self.path}.{key}" if self.path else key
        problem = Problem(where=f"plan: {where}", what=what, got=got, expected=expected, fix=fix)
        if problem not in self._problems:
            self._problems.append(problem)


@contextmanager
def reading(plan: Plan) -> Iterator[Section]:
    """The root of a plan, for reading.

    Raises:
        PlanError: when the block ends: every value that was asked for and is not known.
    """
    problems: list[Problem] = []
    try:
        yield Section(plan.document, "", problems)
    except Exception:
        # What goes wrong after an unknown value is its consequence.
        if problems:
            raise PlanError(problems) from None
        raise
    if problems:
        raise PlanError(problems)
