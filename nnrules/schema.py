"""JSON Schema validation that reports every error at once, with its path and a fix.

Schemas lie in ``schemas/`` as plain JSON files, so that editors and other tools can use them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from nnrules.errors import NnrulesError, Problem
from nnrules.resources import schemas_directory
from nnrules.schema_accept import Acceptor, acceptor

__all__ = ["json_path", "load_schema", "validate"]

_SHOWN_VALUE = 80


def json_path(parts: Any) -> str:
    """Dotted path of a place in a JSON document, e.g. ``configurations.2d.patch_size[1]``; ``$`` for the root."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text or "$"


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema ``schemas/<name>.schema.json``."""
    path = schemas_directory() / f"{name}.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


@cache
def _validator(name: str) -> Any:
    # jsonschema takes about 60 ms to import; verbs that validate nothing should not pay for it.
    from jsonschema.validators import validator_for  # noqa: PLC0415

    schema = load_schema(name)
    return validator_for(schema)(schema)


@cache
def _acceptor(name: str) -> Acceptor | None:
    return acceptor(load_schema(name))


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 1] + "…"


def _leaves(error: Any) -> Iterator[Any]:
    """The errors below anyOf/oneOf that come closest to matching, else the error itself."""
    if not error.context:
        yield error
        return
    branches: dict[Any, list[Any]] = {}
    for child in error.context:
        branches.setdefault(child.schema_path[0], []).append(child)
    best = max(branches.values(), key=lambda group: max(len(child.absolute_path) for child in group))
    if max(len(child.absolute_path) for child in best) <= len(error.absolute_path):
        yield error
        return
    for child in best:
        yield from _leaves(child)


def _expected(error: Any) -> str | None:
    rule, wanted = error.validator, error.validator_value
    description = error.schema.get("description") if isinstance(error.schema, dict) else None
    description = str(description).partition(". ")[0].rstrip(".") if description else None
    texts: dict[str, Callable[[], str]] = {
        "type": lambda: " or ".join(wanted) if isinstance(wanted, list) else str(wanted),
        "enum": lambda: "one of " + ", ".join(_shorten(value) for value in wanted),
        "const": lambda: _shorten(wanted),
        "minimum": lambda: f">= {wanted}",
        "maximum": lambda: f"<= {wanted}",
        "exclusiveMinimum": lambda: f"> {wanted}",
        "exclusiveMaximum": lambda: f"< {wanted}",
        "minItems": lambda: f"at least {wanted} items",
        "maxItems": lambda: f"at most {wanted} items",
        "minProperties": lambda: f"at least {wanted} entries",
        "pattern": lambda: f"text that matches {wanted}",
        "required": lambda: "the field " + error.message.split(" is a required")[0],
        "additionalProperties": lambda: "only " + ", ".join(sorted(error.schema.get("properties", {}))),
        "uniqueItems": lambda: "no value twice",
        "dependentRequired": lambda: "the field {} with {}".format(
            *error.message.split(" is a dependency of ")
        ),
    }
    if rule in ("anyOf", "oneOf") and description is None:
        branches = [branch.get("description") or branch.get("type") for branch in wanted]
        return " or ".join(str(branch).rstrip(".") for branch in branches if branch) or None
    text = texts[rule]() if rule in texts else None
    if text is None and description:
        return description
    return f"{text} ({description})" if text and description and rule == "type" else text


def _what(error: Any) -> str:
    whats = {
        "required": "a field is missing",
        "additionalProperties": "an unknown field",
        "type": "wrong type",
        "enum": "unknown value",
        "const": "wrong value",
        "pattern": "wrong form",
        "minItems": "too few items",
        "maxItems": "too many items",
        "uniqueItems": "a value stands twice",
        "minProperties": "too few entries",
        "dependentRequired": "a field is missing",
    }
    return whats.get(error.validator, "not allowed here")


def _got(error: Any) -> str:
    if error.validator == "additionalProperties":
        known = set(error.schema.get("properties", {}))
        return ", ".join(_shorten(key) for key in sorted(map(str, set(error.instance) - known)))
    if error.validator in ("required", "dependentRequired"):
        names = ", ".join(sorted(map(str, error.instance)))
        return f"the fields {names}"[:_SHOWN_VALUE] if names else "no fields"
    return _shorten(error.instance)


def validate(value: Any, schema: str, *, where: str, error: type[NnrulesError]) -> None:
    """Check ``value`` against ``schemas/<schema>.schema.json``.

    Args:
        value: parsed JSON.
        schema: name of the schema without its endings.
        where: name of the document (usually its path), put before each JSON path.
        error: the class to raise.

    Raises:
        NnrulesError: of class ``error``, with one problem for each place that breaks the schema.
    """
    accepts = _acceptor(schema)
    if accepts is not None and accepts(value):
        return
    found = [leaf for top in _validator(schema).iter_errors(value) for leaf in _leaves(top)]
    if not found:
        return
    found.sort(key=lambda item: [str(part) for part in item.absolute_path])
    problems = [
        Problem(
            where=f"{where}: {json_path(item.absolute_path)}",
            what=_what(item),
            got=_got(item),
            expected=_expected(item),
        )
        for item in found
    ]
    # A schema may say the same of a place twice, in general and for two or three dimensions.
    raise error([problem for position, problem in enumerate(problems) if problem not in problems[:position]])
