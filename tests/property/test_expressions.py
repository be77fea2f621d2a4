# ruff: noqa: E501 - rules in one line read like a table
"""Compiled expressions against a naive interpreter of the same syntax tree."""

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from nnrules.engine.compile_expression import ExpressionCompiler
from nnrules.engine.compiling import constant_value
from nnrules.engine.emit import Emitter, Value
from nnrules.engine.expressions import parse_expression
from nnrules.engine.program import generated_namespace
from nnrules.engine.source import Place, SourceFile
from nnrules.engine.types import BOOL, NUM, STR, VecType
from nnrules.errors import RuleError

ERRORS = (ArithmeticError, ValueError, IndexError)


class Variables:
    """Names of a test: each a variable of the generated function, or a constant."""

    def __init__(self, values: Mapping[str, Any], dim: int, *, constant: bool) -> None:
        self.values, self.dim, self.constant = values, dim, constant

    def lookup(self, em: Emitter, name: str) -> Value | None:
        if name not in self.values:
            return None
        value = self.values[name]
        if isinstance(value, tuple):
            kind = VecType(len(value), BOOL if isinstance(value[0], bool) else NUM)
            return Value(kind, code=name)
        if self.constant:
            return constant_value(value)
        return Value(BOOL if isinstance(value, bool) else STR if isinstance(value, str) else NUM, code=name)

    def has(self, name: str) -> str | None:
        return None

    def call(self, em: Emitter, name: str, args: list[Value]) -> Value | None:
        return None

    def known(self) -> Iterable[str]:
        return self.values

    def known_functions(self) -> Iterable[str]:
        return ()

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        return None


def compiled(text: str, values: Mapping[str, Any], dim: int, *, constant: bool = False) -> Any:
    """What the generated code of an expression gives."""
    emitter = Emitter()
    names = Variables(values, dim, constant=constant)
    place = Place(SourceFile("test.yaml", (text,)), 1, 1)
    value = ExpressionCompiler(emitter, names).compile(parse_expression(text, place))
    emitter.emit(f"return {emitter.packed(value)}")
    source = "\n".join([f"def f({', '.join(values)}):", *(line for line, _ in emitter.lines)])
    namespace = generated_namespace()
    exec(source, namespace)
    return namespace["f"](*values.values())


# -- the naive interpreter ----------------------------------------------------------------------------------------


def spread(function: Callable[..., Any], *values: Any) -> Any:
    length = next((len(value) for value in values if isinstance(value, tuple)), None)
    if length is None:
        return function(*values)
    columns = [value if isinstance(value, tuple) else (value,) * length for value in values]
    return tuple(function(*items) for items in zip(*columns, strict=True))


def exact_power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > 256:
        raise OverflowError
    # Whole powers of whole numbers beyond any float are refused.
    if isinstance(base, int) and abs(base) > 1 and exponent * math.log2(abs(base)) > 1024:
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError  # noqa: TRY004 - a number outside of the reals is a wrong value here
    return result


BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: exact_power, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


def chosen(value: Any, mask: Any) -> tuple[Any, ...]:
    return tuple(item for item, wanted in zip(value, mask, strict=True) if wanted)


CALLS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: spread(abs, x),
    "round": lambda x: spread(lambda v: int(np.rint(v)) if abs(v) < 2**53 else round(v), x),
    "floor": lambda x: spread(math.floor, x),
    "ceil": lambda x: spread(lambda v: -math.floor(-v), x),
    "truncate": lambda x: spread(int, x),
    "minimum": lambda a, b: spread(lambda x, y: x + 0 if x <= y else y + 0, a, b),
    "maximum": lambda a, b: spread(lambda x, y: x + 0 if x >= y else y + 0, a, b),
    "round_up": lambda x, m: spread(lambda v, s: -math.floor(-(v / s)) * s, x, m),
    "where": lambda c, a, b: spread(lambda x, y, z: y if x else z, c, a, b),
    "min": lambda *v: min(v[0] if len(v) == 1 else v),
    "max": lambda *v: max(v[0] if len(v) == 1 else v),
    "sum": lambda v: reduce(operator.add, v, 0),
    "prod": lambda v: reduce(operator.mul, v, 1),
    "mean": lambda v: reduce(operator.add, v, 0) / len(v),
    "any": lambda v: bool(np.any(v)),
    "all": lambda v: bool(np.all(v)),
    "count": lambda v: int(np.count_nonzero(v)),
    "argmax": lambda v: max(range(len(v)), key=lambda i: (v[i], -i)),
    "argmin": lambda v: min(range(len(v)), key=lambda i: (v[i], i)),
    "argsort": lambda v: tuple(sorted(range(len(v)), key=lambda i: (v[i], i))),
    "largest_to_front": lambda v: tuple(sorted(range(len(v)), key=lambda i: (i != CALLS["argmax"](v), i))),
    "take": lambda v, order: tuple(v[i] for i in order),
    "drop_first": lambda v: v[1:],
    "length": len,
}


class Interpreter:
    """Evaluates a syntax tree in the most literal way: every operand before its operator, except where scalars
    short-circuit."""

    def __init__(self, values: Mapping[str, Any], dim: int) -> None:
        self.values, self.dim = values, dim

    def visit(self, node: ast.AST) -> Any:
        return getattr(self, type(node).__name__)(node)

    def Constant(self, node: ast.Constant) -> Any:
        return node.value

    def Name(self, node: ast.Name) -> Any:
        return {"true": True, "false": False}.get(node.id, self.values.get(node.id))

    def BinOp(self, node: ast.BinOp) -> Any:
        return spread(BINARY[type(node.op)], self.visit(node.left), self.visit(node.right))

    def UnaryOp(self, node: ast.UnaryOp) -> Any:
        change = operator.not_ if isinstance(node.op, ast.Not) else operator.neg
        return spread(change, self.visit(node.operand))

    def Compare(self, node: ast.Compare) -> Any:
        sides = [self.visit(side) for side in (node.left, *node.comparators)]
        verdicts = [
            spread(BINARY[type(op)], sides[index], sides[index + 1]) for index, op in enumerate(node.ops)
        ]
        return verdicts[0] if len(verdicts) == 1 else all(verdicts)

    def BoolOp(self, node: ast.BoolOp) -> Any:
        decided = isinstance(node.op, ast.Or)
        result = self.visit(node.values[0])
        for operand in node.values[1:]:
            if result is decided:
                return result
            right = self.visit(operand)
            join = (lambda a, b: a or b) if decided else (lambda a, b: a and b)
            result = spread(join, result, right)
        return result

    def IfExp(self, node: ast.IfExp) -> Any:
        return self.visit(node.body if self.visit(node.test) else node.orelse)

    def Subscript(self, node: ast.Subscript) -> Any:
        value, index = self.visit(node.value), self.visit(node.slice)
        return chosen(value, index) if isinstance(index, tuple) else value[index]

    def List(self, node: ast.List) -> Any:
        return tuple(map(self.visit, node.elts))

    def Call(self, node: ast.Call) -> Any:
        assert isinstance(node.func, ast.Name)
        arguments = [self.visit(argument) for argument in node.args]
        name = node.func.id
        if name in ("zeros", "ones"):
            return (int(name == "ones"),) * self.dim
        if name in ("unit", "is_axis"):
            found = [axis == arguments[0] for axis in range(self.dim)]
            return tuple(found) if name == "is_axis" else tuple(map(int, found))
        return CALLS[name](*arguments)


# -- random expressions -------------------------------------------------------------------------------------------

integers = st.integers(-3, 20)
floats = st.sampled_from([0.5, 1.5, 2.5, -0.5, 1e-3, 0.1, 3.0, 7.25, 1e6])
SIGNS = ["+", "-", "*", "/", "//", "%"]
ORDER = ["<", "<=", ">", ">=", "==", "!="]


@st.composite
def number(draw: Any, dim: int, depth: int) -> str:
    if depth == 0:
        return draw(st.sampled_from(["i", "j", "x", "y", "dim", *map(str, (0, 1, 2, 3, 2.5, 10))]))
    n, v, b, w = (kind(dim, depth - 1) for kind in (number, vector, boolean, mask))
    form = draw(st.integers(0, 9))
    if form <= 2:
        return f"({draw(n)} {draw(st.sampled_from(SIGNS))} {draw(n)})"
    if form == 3:
        return f"({draw(n)} if {draw(b)} else {draw(n)})"
    if form == 4:
        return f"{draw(st.sampled_from(['min', 'max', 'sum', 'prod', 'mean']))}({draw(v)})"
    if form == 5:
        return f"{draw(st.sampled_from(['min', 'max', 'sum', 'prod', 'mean']))}(({draw(v)})[{draw(w)}])"
    if form == 6:
        return f"{draw(st.sampled_from(['argmax', 'argmin', 'length']))}({draw(v)})"
    if form == 7:
        return f"{draw(st.sampled_from(['abs', 'round', 'floor', 'ceil', 'truncate', '-']))}({draw(n)})"
    if form == 8:
        return f"({draw(v)})[argmax({draw(v)})]"
    pair = draw(st.sampled_from(["minimum", "maximum", "min", "max", "round_up"]))
    return draw(st.sampled_from([f"{pair}({draw(n)}, {draw(n)})", f"count({draw(w)})", f"(2 ** {draw(n)})",
                                 f"({draw(n)}) ** 2", f"where({draw(b)}, {draw(n)}, {draw(n)})"]))  # fmt: skip


@st.composite
def vector(draw: Any, dim: int, depth: int) -> str:
    if depth == 0:
        return draw(st.sampled_from(["u", "v", "zeros(dim)", "ones(dim)", str([3, 1.5, 2][:dim])]))
    n, v, b, w = (kind(dim, depth - 1) for kind in (number, vector, boolean, mask))
    form = draw(st.integers(0, 8))
    if form <= 2:
        left, right = draw(st.sampled_from([(v, v), (v, n), (n, v)]))
        return f"({draw(left)} {draw(st.sampled_from([*SIGNS, '*', '+']))} {draw(right)})"
    if form == 3:
        return f"({draw(v)} if {draw(b)} else {draw(v)})"
    if form == 4:
        return f"where({draw(w)}, {draw(st.sampled_from([v, n]).flatmap(lambda s: s))}, {draw(v)})"
    if form == 5:
        return f"{draw(st.sampled_from(['abs', 'round', 'floor', 'ceil', 'truncate', '-']))}({draw(v)})"
    if form == 6:
        return f"{draw(st.sampled_from(['minimum', 'maximum', 'round_up']))}({draw(v)}, {draw(v)})"
    if form == 7:
        return f"take({draw(v)}, {draw(st.sampled_from(['argsort', 'largest_to_front']))}({draw(v)}))"
    return draw(st.sampled_from([f"unit(argmin({draw(v)}))", f"2 ** {draw(v)}", f"({draw(v)} + ({draw(w)}))",
                                 f"argsort({draw(v)})"]))  # fmt: skip


@st.composite
def boolean(draw: Any, dim: int, depth: int) -> str:
    if depth == 0:
        return draw(st.sampled_from(["p", "q", "true", "false", "i < j", "x >= 1"]))
    n, b, w = (kind(dim, depth - 1) for kind in (number, boolean, mask))
    form = draw(st.integers(0, 6))
    if form <= 1:
        return f"({draw(b)} {draw(st.sampled_from(['and', 'or']))} {draw(b)})"
    if form == 2:
        return f"(not {draw(b)})"
    if form == 3:
        return (
            f"({draw(n)} {draw(st.sampled_from(ORDER))} {draw(n)} {draw(st.sampled_from(ORDER))} {draw(n)})"
        )
    if form == 4:
        return f"{draw(st.sampled_from(['any', 'all']))}({draw(w)})"
    return f"({draw(n)} {draw(st.sampled_from(ORDER))} {draw(n)})"


@st.composite
def mask(draw: Any, dim: int, depth: int) -> str:
    if depth == 0:
        return draw(st.sampled_from(["m", "u > v", "u == v", "v >= 1", "is_axis(0)"]))
    n, v, b, w = (kind(dim, depth - 1) for kind in (number, vector, boolean, mask))
    form = draw(st.integers(0, 4))
    if form <= 1:
        left, right = draw(st.sampled_from([(v, v), (v, n), (n, v)]))
        return f"({draw(left)} {draw(st.sampled_from(ORDER))} {draw(right)})"
    if form == 2:
        return f"(not {draw(w)})"
    if form == 3:
        return f"is_axis(argmax({draw(v)}))"
    return f"({draw(w)} {draw(st.sampled_from(['and', 'or']))} {draw(st.sampled_from([w, b]).flatmap(lambda s: s))})"


@st.composite
def cases(draw: Any) -> tuple[str, dict[str, Any], int]:
    dim = draw(st.sampled_from([2, 3]))
    kind = draw(st.sampled_from([number, vector, boolean, mask]))
    text = ast.unparse(ast.parse(draw(kind(dim, draw(st.integers(1, 3)))), mode="eval"))
    assume(len(text) < 600)
    axes = st.tuples(*[st.one_of(integers, floats)] * dim)
    values = {
        "i": draw(integers), "j": draw(integers), "x": draw(floats), "y": draw(floats), "dim": dim,
        "p": draw(st.booleans()), "q": draw(st.booleans()), "u": draw(axes), "v": draw(axes),
        "m": draw(st.tuples(*[st.booleans()] * dim)),
    }  # fmt: skip
    return text, values, dim


def same(left: Any, right: Any) -> bool:
    """Equal to the bit and of one type: 2 is not 2.0, and not True. A sum of no number or of -0.0 may be 0."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    undefined = [isinstance(value, float) and math.isnan(value) for value in (left, right)]
    return type(left) is type(right) and (all(undefined) or bool(left == right))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_compiled_expressions_give_what_they_say(case: tuple[str, dict[str, Any], int]) -> None:
    text, values, dim = case
    try:
        wanted = Interpreter(values, dim).visit(ast.parse(text, mode="eval").body)
    except ERRORS:
        # Lazy parts may avoid the error; a compiled expression may fail in no other way.
        for constant in (False, True):
            try:
                compiled(text, values, dim, constant=constant)
            except (*ERRORS, RuleError):
                continue
        return
    for constant in (False, True):
        try:
            got = compiled(text, values, dim, constant=constant)
        except RuleError as exc:
            # A constant part is computed at once, even where it is never reached; and numbers have a limit.
            reasons = ("division by zero", "too large", "cannot be computed", "no such axis")
            if not any(reason in str(exc) for reason in reasons):
                pytest.fail(f"{text}: {exc}")
            continue
        assert same(got, wanted), f"{text}: {got!r} instead of {wanted!r}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 + 2 * 3", 7), ("-2 ** 2", -4), ("2 ** -1", 0.5), ("2 ** 3 ** 2", 512), ("(1 + 2) * 3", 9), ("7 // 2", 3),
        ("-7 // 2", -4), ("-7 % 3", 2), ("7 / 2", 3.5), ("6 / 2", 3.0), ("2 ** 0.5", math.sqrt(2)), ("2 ** true_i", 2),
        ("not false and false", False), ("true or false and false", True), ("not 1 == 2", True), ("1 < 2 < 3", True),
        ("3 > 2 > 2", False), ("1 if true else 2 if false else 3", 1), ("round(0.5)", 0), ("round(1.5)", 2),
        ("round(2.5)", 2), ("round(-0.5)", 0), ("round(-1.5)", -2), ("'a' in 'cat'", True), ("'a' == 'b'", False),
        ("'CT' in ['MR', 'CT']", True), ("3 not in [1, 2]", True), ("big + 1", 2**60 + 1), ("big * big", 2**120),
        ("big // 3", 2**60 // 3), ("2 ** 200", 2**200), ("2 ** 64 - 1", 2**64 - 1), ("-big - 1", -(2**60) - 1),
        ("argsort([2, 1, 1])", (1, 2, 0)), ("argsort([1, 1])", (0, 1)), ("argmax([1, 3, 3])", 1),
        ("argmin([2, 1, 1])", 1), ("largest_to_front([1, 1, 5])", (2, 0, 1)), ("inverse([2, 0, 1])", (1, 2, 0)),
        ("[1, 2, 3][-1]", 3), ("min(3, 1, 2)", 1), ("max([2, 5, 3][[true, false, true]])", 3), ("lower('Zero')", "zero"),
        ("count([true, false, true])", 2), ("none == none", True), ("'a' == none", False), ("1e-5", 1e-5),
    ],
)  # fmt: skip
def test_plain_examples(text: str, wanted: Any) -> None:
    values = {"big": 2**60, "true_i": 1}
    for constant in (False, True):
        got = compiled(text, values, 3, constant=constant)
        assert same(got, wanted), f"{text}: {got!r}"


@pytest.mark.parametrize("zero", ["0 and x", "0 or x", "not x"])
def test_nothing_is_true_by_itself(zero: str) -> None:
    with pytest.raises(RuleError, match="nothing counts as true or false by itself"):
        compiled(zero, {"x": 1}, 3)


def test_scalars_short_circuit() -> None:
    values = {"x": 0, "p": False, "q": True, "v": (1, 2, 3)}
    assert compiled("x != 0 and 1 / x > 1", values, 3) is False
    assert compiled("x == 0 or 1 / x > 1", values, 3) is True
    assert compiled("p and max(v) / x > 1", values, 3) is False
    assert compiled("q or min(v[v > 5]) > 1", values, 3) is True
    assert compiled("1 / x if p else 5", values, 3) == 5
    with pytest.raises(ZeroDivisionError):
        compiled("q and 1 / x > 1", values, 3)


def test_a_scalar_joins_an_axis_vector_on_every_axis() -> None:
    values = {"p": False, "q": True, "v": (1, 2, 3)}
    assert compiled("q and v > 1", values, 3) == (False, True, True)
    assert compiled("v > 1 and q", values, 3) == (False, True, True)
    assert compiled("p or v > 1", values, 3) == (False, True, True)
    assert compiled("p and v > 1", values, 3) == (False, False, False)


def test_a_value_bound_in_a_branch_is_not_read_outside() -> None:
    values = {"p": False, "q": True, "v": (4, 2, 3), "x": 1}
    text = "(argsort(v)[0] if p else x) + argsort(v)[0]"
    assert compiled(text, values, 3) == 1 + 1
    assert compiled("(p and sum(argsort(v)) > 1) or sum(argsort(v)) == 3", values, 3) is True
    assert compiled("max(v[v > 2]) if q and max(v[v > 2]) > 3 else max(v)", values, 3) == 4
