"""JSON documents: strict reading, canonical bytes, atomic writing, content hashes.

The same value gives the same bytes: keys sorted, UTF-8, a newline at the end, no NaN. Lists of scalars stand on
one line, so that a person can read a stride or a patch size.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnrules.errors import NnrulesError, Problem

__all__ = [
    "canonical_json",
    "check_writable",
    "content_hash",
    "parse_json",
    "read_json",
    "write_json",
    "write_text",
]

_LINE_WIDTH = 110


_MAX_DEPTH = 100
# Where a number may be beyond the largest float; only then is it worth calling Python for each number.
_HUGE = re.compile(r"[eE]\+?0*[1-9]\d\d|\d{300}")


class _NotStrictError(ValueError):
    """Something that JSON readers let pass and documents must not hold."""


def _refuse_constant(name: str) -> Any:
    raise _NotStrictError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _NotStrictError(f"the number {text[:20]} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > sys.int_info.default_max_str_digits:
        raise _NotStrictError(f"a whole number of {len(text)} digits is too large")
    return int(text)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _NotStrictError(f"key {key!r} stands twice in one object")
            seen.add(key)
    return mapping


def _null_constant(_name: str) -> None:
    return None


def read_json(path: Path, error: type[NnrulesError], *, nan_as_null: bool = False) -> Any:
    """Read a JSON file strictly: no duplicate keys, no NaN or Infinity.

    Args:
        path: the file.
        error: the class to raise, so that the caller's kind of document is named.
        nan_as_null: read NaN and Infinity as null, for files that other programs wrote.

    Returns:
        The parsed value.

    Raises:
        NnrulesError: of class ``error`` when the file is missing, unreadable or not JSON; names line and column.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise error(Problem(where=str(path), what="no such file", fix="Check the path.")) from None
    except OSError as exc:
        raise error(_not_text(str(path), exc.strerror or str(exc))) from None
    return parse_json(content, error, where=str(path), nan_as_null=nan_as_null)


def _not_text(where: str, got: str) -> Problem:
    what = "the file cannot be read as text"
    return Problem(where=where, what=what, got=got, fix="Name a JSON file in UTF-8.")


def parse_json(content: bytes, error: type[NnrulesError], *, where: str, nan_as_null: bool = False) -> Any:
    """Parse the content of a JSON file as strictly as :func:`read_json`.

    Args:
        content: UTF-8, with or without a byte order mark.
        error: the class to raise.
        where: how the document is called in errors.
        nan_as_null: read NaN and Infinity as null.

    Raises:
        NnrulesError: of class ``error``, with line and column.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise error(_not_text(where, str(exc))) from None
    try:
        return _parse(text, nan_as_null=nan_as_null)
    except json.JSONDecodeError as exc:
        raise error(
            Problem(
                where=f"{where}:{exc.lineno}:{exc.colno}",
                what=f"not valid JSON: {exc.msg}",
                fix="Open the file at this place and correct it.",
            )
        ) from None
    except _NotStrictError as exc:
        fix = "Search the file for it and correct it."
        raise error(Problem(where=where, what=f"not valid JSON: {exc}", fix=fix)) from None
    except RecursionError:
        expected = f"at most {_MAX_DEPTH} levels"
        raise error(Problem(where=where, what="nested too deeply", expected=expected)) from None


def _parse(text: str, *, nan_as_null: bool) -> Any:
    huge = _HUGE.search(text) is not None
    value = json.loads(
        text,
        parse_constant=_null_constant if nan_as_null else _refuse_constant,
        parse_float=_finite if huge and not nan_as_null else None,
        parse_int=_whole if huge else None,
        object_pairs_hook=_refuse_duplicates,
    )
    level = [value]
    for _ in range(_MAX_DEPTH):
        parts = (
            item.values() if isinstance(item, dict) else item
            for item in level
            if isinstance(item, (dict, list))
        )
        level = [part for inner in parts for part in inner if isinstance(part, (dict, list))]
    if level:
        raise RecursionError
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            half = exc.object[exc.start]
            raise _NotStrictError(f"\\u{ord(half):04x} is half a character") from None
    return value


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _holds_object(value: Any) -> bool:
    return any(
        bool(item) if isinstance(item, dict) else isinstance(item, (list, tuple)) and _holds_object(item)
        for item in value
    )


def _flat(value: Any) -> str | None:
    """One-line form of a list whose items are scalars or lists of scalars, else None."""
    return None if _holds_object(value) else _scalar(value)


def _render(value: Any, indent: int) -> Iterable[str]:
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        if not value:
            yield "{}"
            return
        yield "{\n"
        for position, key in enumerate(sorted(value)):
            yield f"{pad}{_scalar(key)}: "
            yield from _render(value[key], indent + 1)
            yield ",\n" if position + 1 < len(value) else "\n"
        yield " " * indent + "}"
    elif isinstance(value, (list, tuple)):
        flat = _flat(value)
        if flat is not None and (len(flat) + indent <= _LINE_WIDTH or not _is_nested(value)):
            yield flat
            return
        yield "[\n"
        for position, item in enumerate(value):
            yield pad
            yield from _render(item, indent + 1)
            yield ",\n" if position + 1 < len(value) else "\n"
        yield " " * indent + "]"
    else:
        yield _scalar(value)


def _is_nested(value: Any) -> bool:
    return any(isinstance(item, (list, tuple, dict)) for item in value)


def canonical_json(value: Any) -> str:
    """The canonical text of a JSON value, newline-terminated.

    Raises:
        ValueError: when a number is NaN or infinite, which JSON cannot hold.
    """
    return "".join(_render(value, 0)) + "\n"


def content_hash(value: Any) -> str:
    """``sha256:`` and the hex digest of the value's compact sorted JSON; independent of layout."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _not_writable(path: Path, reason: str | OSError) -> Problem:
    fix = "Create the folder or choose another output path."
    if isinstance(reason, OSError):
        if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            fix = "Free space on the disk or choose another output path."
        reason = reason.strerror or str(reason)
    return Problem(where=str(path), what="cannot write here", got=reason, fix=fix)


def check_writable(path: Path) -> None:
    """Refuse an output that cannot become a file, before the work whose result it would hold.

    Raises:
        NnrulesError: the path is a folder, or its folder is missing.
    """
    try:
        is_folder, has_parent, parent_is_folder = path.is_dir(), path.parent.exists(), path.parent.is_dir()
    except OSError as exc:  # a name that is too long, a folder that may not be entered
        raise NnrulesError(_not_writable(path, exc)) from None
    if is_folder:
        raise NnrulesError(_not_writable(path, "a folder"))
    if not parent_is_folder:
        reason = f"{path.parent} is no folder" if has_parent else f"there is no folder {path.parent}"
        raise NnrulesError(_not_writable(path, reason))


def write_text(path: Path, text: str) -> None:
    """Write atomically: a temporary file beside the target, synced, then renamed over it.

    A link stays, and the file that it names is replaced. A device or pipe, such as ``/dev/stdout``, is written to.

    Raises:
        NnrulesError: when the folder is missing or not writable; nothing is left behind.
    """
    check_writable(path)
    try:
        if path.exists() and not path.is_file():  # renaming a file over it would destroy it
            path.write_text(text, encoding="utf-8")
            return
        target = path.resolve() if path.is_symlink() else path
        handle, temporary = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".tmp"
        )
    except OSError as exc:
        raise NnrulesError(_not_writable(path, exc)) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as exc:
        Path(temporary).unlink(missing_ok=True)
        raise NnrulesError(_not_writable(path, exc)) from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``canonical_json(value)`` atomically to ``path``."""
    write_text(path, canonical_json(value))
