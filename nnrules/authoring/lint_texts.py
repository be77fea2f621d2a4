"""Lint: titles, reasons, sources and documentation."""

from __future__ import annotations

from collections.abc import Iterator

from nnrules.authoring.findings import Finding, finding
from nnrules.engine.model import Pack, Rule

__all__ = ["check_texts"]

_MAX_TITLE = 80


def check_texts(pack: Pack) -> Iterator[Finding]:
    """Texts that are missing or out of form, of the pack's own entries."""
    titles: dict[str, Rule] = {}
    for rule in pack.rules.values():
        if rule.pack != pack.id:
            continue
        yield from _title(rule, titles)
        if not rule.source:
            yield finding(
                "warning",
                "no-source",
                rule.place,
                f"rule '{rule.id}' names no source",
                fix="Add 'source': a section of a paper, a package and version, or whose decision it is.",
            )
        for case in rule.cases:
            if not case.because.strip():
                yield finding(
                    "error",
                    "no-because",
                    case.place,
                    f"a case of rule '{rule.id}' gives no reason",
                    fix="Say in 'because' why this is right; explanations are made of it.",
                )
        for given in rule.given.values():
            if not given.because.strip():
                yield finding("error", "no-because", given.place, f"'given: {given.member}' gives no reason")
    for function in pack.functions.values():
        if function.pack == pack.id and not function.source:
            yield finding("note", "no-source", function.place, f"function '{function.name}' names no source")
    for param in pack.params.values():
        if param.pack == pack.id and not param.source:
            yield finding(
                "warning",
                "no-source",
                param.place,
                f"parameter '{param.name}' names no source",
                fix="Add 'source': where the number comes from.",
            )
    for items in (pack.params, pack.facts, pack.functions):
        for item in items.values():
            if item.pack == pack.id and not item.doc.strip():
                yield finding("error", "no-doc", item.place, f"'{item.name}' has an empty 'doc'")


def _title(rule: Rule, titles: dict[str, Rule]) -> Iterator[Finding]:
    title = rule.title.strip()
    if not title:
        yield finding("error", "title", rule.place, f"rule '{rule.id}' has an empty title")
    elif title.endswith(".") or len(title) > _MAX_TITLE or title[0].islower():
        yield finding(
            "note",
            "title",
            rule.place,
            f"the title of rule '{rule.id}' does not read like one",
            got=title,
            expected=f"a capital letter first, no full stop, at most {_MAX_TITLE} characters",
        )
    elif title in titles and not set(titles[title].decides) & set(rule.decides):
        yield finding(
            "note",
            "title",
            rule.place,
            f"rules '{titles[title].id}' and '{rule.id}' have the same title",
            got=title,
        )
    titles.setdefault(title, rule)
