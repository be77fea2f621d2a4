"""Checks a rule pack beyond what loading it checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnrules.authoring.findings import Finding, LintReport, finding, sorted_findings
from nnrules.authoring.lint_cases import check_cases, check_literals, check_loops
from nnrules.authoring.lint_names import check_names
from nnrules.authoring.lint_texts import check_texts
from nnrules.authoring.rule_test_file import read_rule_tests, rule_test_files
from nnrules.engine.compile_pack import compile_pack
from nnrules.engine.model import Pack
from nnrules.engine.packs import load_pack, pack_directory, version_files
from nnrules.engine.read import CONTENT_KEYS, read_contents
from nnrules.engine.read_release import RELEASE_KEYS
from nnrules.engine.source import Place, YamlList, YamlMap, YamlNode, read_yaml, to_json
from nnrules.errors import NnrulesError, PackError, Problem, RuleError
from nnrules.schema import validate

__all__ = ["lint_pack"]


def lint_pack(spec: str | Path) -> LintReport:
    """Load, compile and check a pack.

    Args:
        spec: ``name@version``, ``name``, or the path of an overlay file.

    Returns:
        Every finding: what stops the pack from loading or compiling as errors, and what could be better.
        Entries that an overlay inherits unchanged are not looked at.

    Raises:
        PackError: no such pack or file.
    """
    files = _files(spec)
    try:
        pack = load_pack(spec)
        presets = [load_pack(spec, preset=name) for name in pack.presets if name != pack.preset]
        for entry in [pack, *presets]:
            compile_pack(entry)
    except RuleError as exc:
        findings = [Finding(severity="error", check="load", problem=problem) for problem in exc.problems]
        return LintReport(spec=str(spec), findings=sorted_findings(findings))
    roots = {path: read_yaml(path, name) for path, name in files.items()}
    findings = [
        *_warnings(pack),
        *(entry for path, root in roots.items() for entry in _schema(path, root)),
        *(entry for root in roots.values() for entry in _ignored(root)),
        *_unlisted(pack, list(roots.values())),
        *_unrecorded(pack, list(roots.values())),
        *check_names(pack),
        *(entry for rule in pack.rules.values() if rule.pack == pack.id for entry in check_cases(rule)),
        *(entry for item in pack.functions.values() if item.pack == pack.id for entry in check_loops(item)),
        *check_literals(pack),
        *check_texts(pack),
        *_tests(spec),
    ]
    return LintReport(spec=str(pack.id), findings=sorted_findings(findings))


def _files(spec: str | Path) -> dict[Path, str]:
    """The pack's own files and how they are called in places."""
    text = str(spec)
    if isinstance(spec, Path) or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        path = Path(spec)
        if not path.is_file():
            raise PackError(Problem(where=text, what="no such file", fix="Check the path."))
        return {path: path.name}
    pack, folder = pack_directory(text)
    return {path: f"{pack.name}/{pack.version}/{path.name}" for path in version_files(folder)}


def _warnings(pack: Pack) -> Iterator[Finding]:
    for text in pack.warnings:
        where, _, what = text.partition(": ")
        yield Finding(
            severity="warning", check="replaces", problem=Problem(where=where, what=what.rstrip("."))
        )


# -- JSON Schema ---------------------------------------------------------------------------------------------


def _schema(path: Path, root: YamlNode) -> Iterator[Finding]:
    """What the schema for editors refuses although it loads: either of the two is wrong."""
    name = "release" if path.name == "release.yaml" else "rules"
    try:
        validate(to_json(root), name, where=root.place.file.name, error=RuleError)
    except RuleError as exc:
        for problem in exc.problems:
            yield Finding(severity="error", check="schema", problem=problem)


# -- fields that have no effect ------------------------------------------------------------------------------


def _ignored(root: YamlNode) -> Iterator[Finding]:
    """``because`` and ``warn`` of a rule with cases, which belong into the cases."""
    rules = root.items.get("rules") if isinstance(root, YamlMap) else None
    for rule in rules.items if isinstance(rules, YamlList) else ():
        if not isinstance(rule, YamlMap) or "cases" not in rule.items:
            continue
        for key in ("because", "warn"):
            if key in rule.items:
                yield finding(
                    "error",
                    "ignored-field",
                    rule.keys[key],
                    f"'{key}' beside 'cases' has no effect",
                    fix="Move it into the cases.",
                )


def _unlisted(pack: Pack, roots: list[YamlNode]) -> Iterator[Finding]:
    """Configurations are declared, but no rule says which of them are planned, so none is."""
    if pack.configurations and not any("configurations" in rule.decides for rule in pack.rules.values()):
        yield finding(
            "error",
            "no-configurations",
            roots[0].place,
            f"no rule of {pack.id} decides 'configurations'",
            fix="Add a rule of scope dataset that gives the list of the configurations to plan.",
        )


# -- what an overlay replaces --------------------------------------------------------------------------------


def _unrecorded(pack: Pack, roots: list[YamlNode]) -> Iterator[Finding]:
    """Entries that replace something without the hash of what they were written against."""
    if pack.extends is None:
        return
    base, folder = pack_directory(str(pack.extends)) if pack.extends.version != "local" else (None, None)
    if base is None or folder is None:
        return
    lower = read_contents(
        [read_yaml(path) for path in version_files(folder) if path.name != "release.yaml"], base
    )
    own = read_contents(
        [root for root in roots if root.place.file.name.rpartition("/")[2] != "release.yaml"],
        pack.id,
        also=RELEASE_KEYS,
    )
    places = _places(roots)
    for label in own.digests:
        if label in lower.digests and label not in own.replaces:
            yield finding(
                "note",
                "unrecorded-replacement",
                places[label],
                f"{label} replaces that of {pack.extends} without its hash",
                fix=f"Add 'replaces: \"{lower.digests[label]}\"', so that a change upstream is reported.",
            )


def _places(roots: list[YamlNode]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for root in roots:
        for key in CONTENT_KEYS if isinstance(root, YamlMap) else ():
            node = root.items.get(key) if isinstance(root, YamlMap) else None
            if isinstance(node, YamlMap):
                places |= {f"{key[:-1]} {name}": place for name, place in node.keys.items()}
            for item in node.items if isinstance(node, YamlList) else ():
                if isinstance(item, YamlMap) and "id" in item.items:
                    places[f"rule {to_json(item.items['id'])}"] = item.keys["id"]
    return places


# -- tests ---------------------------------------------------------------------------------------------------


def _tests(spec: str | Path) -> Iterator[Finding]:
    for path in rule_test_files(spec):
        try:
            read_rule_tests(path)
            document: Any = to_json(read_yaml(path))
            validate(document, "rule_tests", where=str(path), error=RuleError)
        except NnrulesError as exc:
            yield from (Finding(severity="error", check="tests", problem=problem) for problem in exc.problems)
