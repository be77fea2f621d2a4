"""The expression language: a whitelisted subset of Python's expressions.

Grammar, loosest binding first::

    expression  = choice
    choice      = or [ "if" or "else" choice ]           the condition is a scalar boolean
    or          = and { "or" and }                       scalars short-circuit; axis vectors work elementwise
    and         = not { "and" not }
    not         = "not" not | comparison
    comparison  = sum [ ("<"|"<="|">"|">="|"=="|"!="|"in"|"not in") sum ]
    sum         = product { ("+"|"-") product }
    product     = unary { ("*"|"/"|"//"|"%") unary }
    unary       = "-" unary | power
    power       = primary [ "**" unary ]
    primary     = number | "text" | true | false | none | name { "." name } | primary "[" expression "]"
                | name "(" arguments ")" | "[" expressions "]" | "(" expression ")"

Calls go to bare names only. There are no lambdas, comprehensions, f-strings, assignments or attributes of Python
objects: a dotted name is looked up in declared records. Scalars may be compared in a chain (``0 < x < 1``).
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from functools import lru_cache

from nnrules.engine.source import Place
from nnrules.errors import Problem, RuleError

__all__ = ["Expression", "constant_expression", "dotted_name", "names_and_calls", "parse_expression"]

_MAX_LENGTH = 600
_MAX_DEPTH = 40
_MAX_NUMBER = 1e18

_ALLOWED: tuple[type[ast.AST], ...] = (
    ast.Expression,
    ast.Constant,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Call,
    ast.keyword,
    ast.List,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.FloorDiv,
    ast.Mod,
    ast.Pow,
    ast.USub,
    ast.Not,
    ast.And,
    ast.Or,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
    ast.Eq,
    ast.NotEq,
    ast.In,
    ast.NotIn,
    ast.Load,
)

# Parts of what is refused as a whole, so not worth a message of their own.
_PARTS = (ast.comprehension, ast.arguments, ast.arg, ast.Store)

_HINTS: dict[type[ast.AST], str] = {
    ast.BitAnd: "Write 'and': it works elementwise on axis vectors.",
    ast.BitOr: "Write 'or': it works elementwise on axis vectors.",
    ast.BitXor: "Write '!='. For powers write '**'.",
    ast.Invert: "Write 'not': it works elementwise on axis vectors.",
    ast.Lambda: "Write a function of the pack (functions:).",
    ast.ListComp: "Axis vectors and lists are computed as a whole; for loops write a function with 'repeat'.",
    ast.GeneratorExp: "Axis vectors and lists are computed as a whole; for loops write a function with 'repeat'.",
    ast.JoinedStr: "Texts for people take {name} placeholders in because, warn and refuse only.",
    ast.Slice: "Use drop_first(v), prepend or append.",
    ast.Tuple: "Write a list: [a, b].",
}
_CONSTANTS: dict[str, bool | None] = {
    "true": True,
    "false": False,
    "none": None,
    "True": True,
    "False": False,
    "None": None,
}


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """One parsed expression.

    Attributes:
        text: as written.
        place: where its first character stands.
        tree: the checked syntax tree.
    """

    text: str
    place: Place
    tree: ast.expr

    def at(self, node: ast.AST) -> Place:
        """The place of a part of the expression; its start when the file holds the text in another form."""
        written = self.text.strip().splitlines()[0]
        # The syntax tree counts bytes of UTF-8.
        column = len(written.encode()[: getattr(node, "col_offset", 0)].decode(errors="ignore"))
        return _place_in(self.text, self.place, getattr(node, "lineno", 1), column)

    def __str__(self) -> str:
        """The text on one line."""
        return " ".join(self.text.split())


def _place_in(text: str, place: Place, line: int, column: int) -> Place:
    """A column of an expression's stripped text as a place in its file.

    Folded, quoted or block text may stand there in another form; then only its start is known.
    """
    lines = place.file.lines
    source = lines[place.line - 1][place.column - 1 :] if 1 <= place.line <= len(lines) else ""
    if line > 1 or not source.startswith(text.rstrip()):
        return place
    return place.shifted(len(text) - len(text.lstrip()) + column)


def _depth(node: ast.AST) -> int:
    return 1 + max((_depth(child) for child in ast.iter_child_nodes(node)), default=0)


def _bracket_depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


@lru_cache(maxsize=4096)
def _parse(text: str) -> ast.expr | tuple[str, int]:
    """The tree (shared between equal texts, so never changed in place), or what is wrong and where."""
    try:
        # What Python only warns of ('\\d', 1if) differs between its versions: here it is an error in all of them.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = ast.parse(text.strip(), mode="eval")
        return _normalise(tree.body)
    except SyntaxError as exc:
        return (str(exc.msg), max((exc.offset or 1) - 1, 0))
    except RecursionError:
        return ("nested too deeply", 0)
    except (ValueError, MemoryError) as exc:
        return (str(exc) or "too complex", 0)


def _normalise(node: ast.expr) -> ast.expr:
    """Turn true/false/none into constants."""

    class Constants(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            if name.id in _CONSTANTS:
                return ast.copy_location(ast.Constant(_CONSTANTS[name.id]), name)
            return name

    result: ast.expr = Constants().visit(node)
    return result


def _describe(node: ast.AST) -> str:
    return type(node).__name__


def _check(expression: Expression, root: ast.AST) -> list[Problem]:
    problems = []
    for node in ast.walk(root):
        if isinstance(node, _PARTS):
            continue
        place = expression.at(node)
        if not isinstance(node, _ALLOWED):
            problems.append(
                place.problem(
                    "not part of the rule language",
                    got=_describe(node),
                    expected="numbers, names, operators and calls of builtins or functions",
                    fix=_HINTS.get(type(node)),
                )
            )
        elif isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            problems.append(place.problem("only named functions can be called", fix="Call name(...)."))
        elif isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name.startswith("_"):
                problems.append(place.problem("names may not begin with an underscore", got=name))
        elif isinstance(node, ast.keyword) and node.arg is None:
            problems.append(place.problem("'**' may not unpack arguments"))
        elif isinstance(node, ast.Constant):
            kind = type(node.value)
            if kind not in (int, float, str, bool, type(None)):
                problems.append(place.problem("not a number, text or truth value", got=repr(node.value)))
            elif kind in (int, float) and not abs(node.value) <= _MAX_NUMBER:  # type: ignore[arg-type]
                problems.append(place.problem("the number is too large", expected=f"at most {_MAX_NUMBER:g}"))
    return problems


def parse_expression(text: str, place: Place) -> Expression:
    """Parse and check one expression.

    Args:
        text: the expression.
        place: where it stands in its file.

    Raises:
        RuleError: syntax outside the language, with the place of each offence.
    """
    if not text.strip():
        raise RuleError(place.problem("an expression is missing", fix="Write one, or remove the field."))
    if len(text) > _MAX_LENGTH or _bracket_depth(text) > _MAX_DEPTH:
        limit = f"at most {_MAX_LENGTH} characters and {_MAX_DEPTH} levels of brackets"
        raise RuleError(
            place.problem("the expression is too long", expected=limit, fix="Name parts of it with let.")
        )
    parsed = _parse(text)
    if isinstance(parsed, tuple):
        what, offset = parsed
        fix = "Use '==' to compare." if "=" in text and "==" not in text else None
        raise RuleError(
            _place_in(text, place, 1, offset).problem(f"not an expression: {what}", got=text.strip(), fix=fix)
        )
    try:
        too_deep = _depth(parsed) > _MAX_DEPTH
    except RecursionError:
        too_deep = True
    if too_deep:
        fix = "Name parts of it with let."
        raise RuleError(place.problem("the expression is nested too deeply", fix=fix))
    expression = Expression(text, place, parsed)
    problems = _check(expression, parsed)
    if problems:
        raise RuleError(problems)
    return expression


def constant_expression(value: float | str | bool, place: Place) -> Expression:
    """The expression that is just this value."""
    return Expression(repr(value), place, ast.Constant(value, lineno=1, col_offset=0))


def dotted_name(root: ast.AST) -> str | None:
    """``a.b.c`` of nested attributes on a name, else None."""
    parts: list[str] = []
    node: ast.AST = root
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def names_and_calls(root: ast.AST) -> tuple[list[tuple[str, ast.AST]], list[tuple[str, ast.Call]]]:
    """Every dotted name that is read (longest form, once a place), and every call, in source order."""
    names: list[tuple[str, ast.AST]] = []
    calls: list[tuple[str, ast.Call]] = []

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            calls.append((node.func.id, node))
            for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
                walk(argument)
            return
        name = dotted_name(node)
        if name is not None:
            names.append((name, node))
            return
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(root)
    return names, calls
