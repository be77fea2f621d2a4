"""Lint: cases that are never taken or always clash, endless loops, numbers that should be parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nnrules.authoring.findings import Finding, finding
from nnrules.authoring.walk import Use, names_in, uses_of
from nnrules.engine.model import Fact, Function, Pack, Rule

__all__ = ["check_cases", "check_literals", "check_loops"]

_PLAIN_NUMBERS = (0, 1, 2, 0.5)


def check_cases(rule: Rule) -> Iterator[Finding]:
    """Cases that overlap or cannot be reached, as far as their text tells.

    A condition that consists of another case's parts and more (``a and b`` after ``a``) is implied by it:
    under ``first`` the later case is never taken, under ``unique`` both apply at once.
    """
    earlier: list[tuple[int, frozenset[str]]] = []
    for index, case in enumerate(rule.cases):
        if case.when is None:
            continue
        parts = _conjuncts(case.when.tree)
        always, never = parts == {"True"}, "False" in parts
        if never:
            yield finding(
                "warning", "unreachable-case", case.place, f"this case of '{rule.id}' never applies"
            )
        if always and index + 1 < len(rule.cases) and rule.hit == "first":
            yield finding(
                "warning",
                "unreachable-case",
                rule.cases[index + 1].place,
                f"this case of '{rule.id}' is never reached: an earlier one always applies",
                fix=f"Remove it, or the condition at line {case.place.line}.",
            )
        for other, known in earlier:
            implied = known <= parts if rule.hit == "first" else known <= parts or parts <= known
            if implied and not never and known != {"True"}:
                yield _clash(rule, index, other)
                break
        earlier.append((index, parts))


def _clash(rule: Rule, index: int, other: int) -> Finding:
    place, line = rule.cases[index].place, rule.cases[other].place.line
    if rule.hit == "first":
        return finding(
            "warning",
            "unreachable-case",
            place,
            f"this case of '{rule.id}' is never reached: wherever it applies, the one at line {line} does",
            fix="Put the more special case first.",
        )
    if rule.hit == "unique":
        return finding(
            "error",
            "overlapping-cases",
            place,
            f"this case of '{rule.id}' and the one at line {line} apply at once, but hit is 'unique'",
            fix="Make the conditions exclusive, or say 'hit: first'.",
        )
    return finding(
        "note", "overlapping-cases", place, f"this case of '{rule.id}' overlaps with the one at line {line}"
    )


def _conjuncts(tree: ast.expr) -> frozenset[str]:
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        return frozenset(part for value in tree.values for part in _conjuncts(value))
    return frozenset({ast.unparse(tree)})


# -- loops ---------------------------------------------------------------------------------------------------


def check_loops(function: Function) -> Iterator[Finding]:
    """Conditions to stop that no round can change, and reasons to stop that cannot be told apart."""
    if not function.steps:
        return
    changing = {name for step in function.steps for name in step.set or {}}
    lets = {name: expression for step in function.steps for name, expression in (step.let or {}).items()}
    grown = True
    while grown:
        more = {
            name
            for name, expression in lets.items()
            if name not in changing and _reads(changing, Use(expression=expression, role="let"))
        }
        changing |= more
        grown = bool(more)
    stops = [step for step in function.steps if step.stop_if is not None]
    for step in stops:
        assert step.stop_if is not None
        if not _reads(changing, Use(expression=step.stop_if, role="stop_if")):
            yield finding(
                "error",
                "endless-loop",
                step.place,
                f"no round of '{function.name}' changes what this reads, so it stops at once or never",
                fix="Change what it reads with 'set', or move the test out of the loop.",
            )
    seen: dict[str, int] = {}
    for step in stops:
        text = step.because or str(step.stop_if)
        if text in seen:
            yield finding(
                "warning",
                "same-reason",
                step.place,
                f"'{function.name}' stops for the same reason as at line {seen[text]}",
                fix="Give each 'stop_if' its own 'because': explanations and coverage tell them apart by it.",
            )
        seen.setdefault(text, step.place.line)


def _reads(changing: set[str], use: Use) -> bool:
    return any(name.partition(".")[0] in changing for name in names_in([use]))


# -- numbers -------------------------------------------------------------------------------------------------


def check_literals(pack: Pack) -> Iterator[Finding]:
    """Numbers inside expressions that should be parameters.

    Not meant: 0, 1, 2, 0.5 and their negatives; a number that is compared with ``dim``; the 50 of a
    median taken by ``percentile``; the kernel of 3 voxels, as an entry of ``where`` or a multiple of
    ``ones``; indices; a value that is nothing but a number, which its own rule explains.
    """
    owners: list[Rule | Fact | Function] = [
        *pack.rules.values(),
        *pack.facts.values(),
        *pack.functions.values(),
    ]
    for owner in owners:
        if owner.pack != pack.id:
            continue
        for use in uses_of(owner):
            allowed = set(_allowed(use.expression.tree))
            for node in ast.walk(use.expression.tree):
                if _is_number(node) and id(node) not in allowed:
                    number = node.value  # type: ignore[attr-defined]
                    yield finding(
                        "warning",
                        "literal",
                        use.expression.at(node),
                        f"the number {number} stands in an expression",
                        fix="Make it a parameter with unit, doc and source, so that people find it.",
                    )


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _allowed(tree: ast.expr) -> Iterator[int]:
    """Ids of the nodes of numbers that may stay."""
    if _is_number(tree):
        yield id(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and _is_number(node) and node.value in _PLAIN_NUMBERS:
            yield id(node)
        if isinstance(node, ast.Subscript):
            yield from map(id, ast.walk(node.slice))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Name) and side.id == "dim" for side in sides):
                yield from map(id, sides)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            entries = {"percentile": (50, node.args[1:2]), "where": (3, node.args[1:])}.get(name)
            if entries is not None:
                yield from (
                    id(arg) for arg in entries[1] if isinstance(arg, ast.Constant) and arg.value == entries[0]
                )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for number, other in ((node.left, node.right), (node.right, node.left)):
                is_ones = (
                    isinstance(other, ast.Call)
                    and isinstance(other.func, ast.Name)
                    and other.func.id == "ones"
                )
                if is_ones and isinstance(number, ast.Constant) and number.value == 3:
                    yield id(number)
