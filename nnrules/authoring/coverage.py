"""Which cases of a pack's rules its tests took, and which conditions they saw both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from nnrules.engine.model import Function, Pack, PackId, Rule
from nnrules.engine.program import Node, Program
from nnrules.engine.source import Place

__all__ = ["CoverageReport", "Recorder", "Target"]

_Key = tuple[str, str, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that a complete set of tests must bring about.

    Attributes:
        owner: ``rule ID`` or ``function NAME``.
        what: in words, e.g. ``the case is taken`` or ``stop_if is false``.
        text: the condition as written; empty for ``otherwise``.
        where: file:line:column.
    """

    owner: str
    what: str
    text: str
    where: str

    def __str__(self) -> str:
        """Read as ``where: rule x: the case is taken (condition)``."""
        return f"{self.where}: {self.owner}: {self.what}" + (f" ({self.text})" if self.text else "")

    def to_json(self) -> dict[str, str]:
        """The target as a JSON object."""
        return {"owner": self.owner, "what": self.what, "text": self.text, "where": self.where}


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageReport:
    """How much of a pack its tests exercised.

    Attributes:
        pack: the pack.
        counted: which rules and functions count: ``all``, or ``own`` for a pack that extends another
            (those that it adds or replaces; the others are covered by the tests of the pack that they
            come from).
        num_targets: cases, outcomes of conditions, and branches for overrides that count.
        num_covered: how many of them the tests brought about.
        missing: the others.
        unchecked: rules that tests ran, but of which no test checked a decided field. They do not lower
            the share.
    """

    pack: str
    counted: str
    num_targets: int
    num_covered: int
    missing: tuple[Target, ...]
    unchecked: tuple[str, ...]

    @property
    def percent(self) -> float:
        """Share of the targets that were covered; 100 where there is nothing to cover."""
        return 100.0 * self.num_covered / self.num_targets if self.num_targets else 100.0

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "pack": self.pack,
            "counted": self.counted,
            "num_targets": self.num_targets,
            "num_covered": self.num_covered,
            "percent": round(self.percent, 2),
            "missing": [target.to_json() for target in self.missing],
            "unchecked": list(self.unchecked),
        }


class Recorder:
    """Notes what compiled rules and functions did.

    A condition that compilation decided (it only asks for a parameter or the configuration's name) is
    still reported by the generated code, so its outcomes add up over the configurations.
    """

    def __init__(self) -> None:
        self.seen: set[_Key] = set()
        self.checked: set[str] = set()
        self.last_cases: tuple[int, ...] = ()

    def attach(self, program: Program) -> None:
        """Watch every rule and fact of a program, which must not be shared with anybody else."""
        for node in program.order:
            for name, note in self._watched(node):
                program.namespace[name] = self._recording(program.namespace[name], note)

    def _watched(self, node: Node) -> Iterator[tuple[str, Callable[[Any], None] | None]]:
        if not node.code_name:
            return
        rule = node.rule
        if rule is None:
            yield node.code_name, None
            return
        yield node.code_name, partial(self._rule, rule)
        for member, branch in node.branches.items():
            yield branch, partial(self._given, rule, member)

    def _recording(self, call: Callable[..., Any], note: Callable[[Any], None] | None) -> Callable[..., Any]:
        def recorded(env: Any, memo: Any, rounds: Any) -> Any:
            try:
                result = call(env, memo, rounds)
            finally:
                self.rounds(memo["trace"])
            if note is not None:
                note(result)
            return result

        return recorded

    def rounds(self, trace: list[tuple[str, int, Any, str | None]]) -> None:
        """Take over the recorded rounds of loops."""
        self.seen |= {("round", function, 0, stopped or "") for function, _, _, stopped in trace}
        trace.clear()

    def constant(self, rule: Rule) -> None:
        """Note a rule that is one constant and needs no code."""
        self.seen.add(("case", rule.id, 0, str(rule.place)))
        self.last_cases = (0,)

    def _rule(self, rule: Rule, result: tuple[list[bool], list[tuple[int, Any, Any]]]) -> None:
        whens, found = result
        # Places tell a replaced rule from its replacement, which has the same id.
        self.seen |= {("case", rule.id, index, str(rule.place)) for index, _, _ in found}
        self.seen |= {
            ("when", rule.id, index, f"{rule.place} {bool(value)}") for index, value in enumerate(whens)
        }
        self.last_cases = tuple(index for index, _, _ in found)

    def _given(self, rule: Rule, member: str, result: tuple[list[tuple[int, Any, Any]], Any]) -> None:
        broken, _ = result
        self.seen.add(("given", rule.id, 0, f"{rule.place} {member}"))
        self.last_cases = ()
        failed = {index for index, _, _ in broken}
        self.seen |= {
            ("require", rule.id, index, f"{rule.place} {member} {index not in failed}")
            for index in range(len(rule.given[member].require))
        }

    # -- report ----------------------------------------------------------------------------------------------

    def report(self, pack: Pack) -> CoverageReport:
        """What was covered of the rules and functions that count for this pack."""
        rules = [rule for rule in pack.rules.values() if _counts(rule.pack, pack)]
        functions = [function for function in pack.functions.values() if _counts(function.pack, pack)]
        targets = [entry for rule in rules for entry in self._rule_targets(rule)]
        targets += [entry for function in functions for entry in self._function_targets(function)]
        missing = tuple(target for target, covered in targets if not covered)
        return CoverageReport(
            pack=str(pack.id),
            counted="all" if pack.extends is None else "own",
            num_targets=len(targets),
            num_covered=len(targets) - len(missing),
            missing=missing,
            unchecked=tuple(rule.id for rule in rules if rule.id not in self.checked),
        )

    def _rule_targets(self, rule: Rule) -> Iterator[tuple[Target, bool]]:
        owner, place = f"rule {rule.id}", str(rule.place)

        def entry(what: str, text: object, where: Place, key: tuple[str, int, str]) -> tuple[Target, bool]:
            kind, index, detail = key
            return _target(owner, what, str(text), where), (
                kind,
                rule.id,
                index,
                f"{place}{detail}",
            ) in self.seen

        for index, case in enumerate(rule.cases):
            yield entry("the case is taken", case.when or "", case.place, ("case", index, ""))
            if case.when is not None:
                yield entry("when is false", case.when, case.place, ("when", index, " False"))
        for member, given in rule.given.items():
            yield entry(f"{member} is overridden", "", given.place, ("given", 0, f" {member}"))
            for index, requirement in enumerate(given.require):
                for what, kept in (("holds", True), ("is broken", False)):
                    key = ("require", index, f" {member} {kept}")
                    yield entry(f"the requirement {what}", requirement.that, requirement.place, key)

    def _function_targets(self, function: Function) -> Iterator[tuple[Target, bool]]:
        stops = [step for step in function.steps if step.stop_if is not None]
        labels = [step.because or str(step.stop_if) for step in stops]
        ended = {key[3] for key in self.seen if key[0] == "round" and key[1] == function.name}
        for position, step in enumerate(stops):
            # A round that went on, or stopped at a later step, had this condition false.
            later = {"", *labels[position + 1 :]}
            for what, covered in (("true", labels[position] in ended), ("false", bool(later & ended))):
                yield (
                    _target(f"function {function.name}", f"stop_if is {what}", str(step.stop_if), step.place),
                    covered,
                )


def _counts(owner: PackId, pack: Pack) -> bool:
    return pack.extends is None or owner == pack.id


def _target(owner: str, what: str, text: str, place: Place) -> Target:
    return Target(owner=owner, what=what, text=text, where=str(place))
