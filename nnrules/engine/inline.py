"""Inlined forms of the builtins that loops call: scalar Python in place of a call.

Each takes the emitter, the argument values and the result type, and returns the result, or ``None`` when it has no
inline form for these arguments (the compiler then calls the implementation in ``nnrules.functions``). The test
``test_inline`` compares every one with that implementation.
"""

from __future__ import annotations

from collections.abc import Callable

from nnrules.engine.emit import Emitter, Value
from nnrules.engine.types import COLUMN, MATRIX, ListType, MaskedType, Type, VecType

__all__ = ["INLINE", "bounded", "elementwise", "literal_axis"]

Inline = Callable[[Emitter, list[Value], Type], Value | None]
INLINE: dict[str, Inline] = {}


def bounded(product: str, name: str) -> str:
    """Code that computes a product and fails where it leaves the range of floats; ``name`` is a free variable."""
    return f"({name} if -1e308 < ({name} := {product}) < 1e308 else too_large())"


def _has_cases(values: list[Value]) -> bool:
    return any(value.type in (MATRIX, COLUMN) for value in values)


def elementwise(em: Emitter, values: list[Value], kind: Type, template: str, *, bind: bool = False) -> Value:
    """Spread scalars over vectors and fill ``template`` once an axis; ``bind`` names parts that it uses twice."""
    if not isinstance(kind, VecType):
        codes = [em.packed(value) for value in values]
        if bind:
            codes = [em.bind(code) for code in codes]
        return Value(kind, code=template.format(*codes))
    columns: list[list[str]] = []
    for value in values:
        if isinstance(value.type, VecType):
            columns.append(em.atoms(value) if bind else em.elements(value))
        else:
            columns.append([em.bind(em.packed(value))] * kind.length)
    return Value(kind, elements=[template.format(*parts) for parts in zip(*columns, strict=True)])


def _elementwise(template: str, *, bind: bool = False) -> Inline:
    def inline(em: Emitter, args: list[Value], kind: Type) -> Value | None:
        return None if _has_cases(args) else elementwise(em, args, kind, template, bind=bind)

    return inline


INLINE["abs"] = _elementwise("abs({0})")
INLINE["round"] = _elementwise("round({0})")
INLINE["floor"] = _elementwise("floor({0})")
INLINE["ceil"] = _elementwise("ceil({0})")
INLINE["truncate"] = _elementwise("trunc({0})")
INLINE["log"] = _elementwise("log({0})")
INLINE["minimum"] = _elementwise("(+({1} if {1} < {0} else {0}))", bind=True)
INLINE["maximum"] = _elementwise("(+({1} if {1} > {0} else {0}))", bind=True)
INLINE["round_up"] = _elementwise("(ceil({0} / {1}) * {1})", bind=True)
INLINE["where"] = _elementwise("({1} if {0} else {2})")


def _extreme(name: str) -> Inline:
    worst = "inf" if name == "min" else "-inf"

    def inline(em: Emitter, args: list[Value], kind: Type) -> Value | None:
        if len(args) > 1:
            return Value(kind, code=f"{name}({', '.join(em.packed(arg) for arg in args)})")
        (arg,) = args
        if isinstance(arg.type, MaskedType):
            mask, elements = [em.bind(code) for code in arg.mask or []], em.atoms(arg)
            parts = [
                f"({code} if {chosen} else {worst})" for code, chosen in zip(elements, mask, strict=True)
            ]
            result = em.bind(f"{name}({', '.join(parts)})")
            em.emit(f"if {result} == {worst}: nothing_selected()")
            return Value(kind, code=result)
        if isinstance(arg.type, VecType):
            elements = em.elements(arg)
            return Value(kind, code=f"{name}({', '.join(elements)})" if len(elements) > 1 else elements[0])
        return Value(kind, code=f"{name}({em.packed(arg)})") if isinstance(arg.type, ListType) else None

    return inline


INLINE["min"] = _extreme("min")
INLINE["max"] = _extreme("max")


def _fold(operator: str, neutral: str) -> Inline:
    def inline(em: Emitter, args: list[Value], kind: Type) -> Value | None:
        (arg,) = args
        if isinstance(arg.type, MaskedType):
            pairs = zip(em.elements(arg), arg.mask or [], strict=True)
            return Value(
                kind, code="(" + operator.join(f"({c} if {m} else {neutral})" for c, m in pairs) + ")"
            )
        if isinstance(arg.type, VecType):
            return Value(kind, code="(" + operator.join(em.elements(arg)) + ")")
        return None

    return inline


def _prod(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    found = _fold(" * ", "1")(em, args, kind)
    return None if found is None else Value(kind, code=bounded(em.packed(found), em.fresh()))


INLINE["sum"] = _fold(" + ", "0")
INLINE["prod"] = _prod
INLINE["any"] = _fold(" or ", "False")
INLINE["all"] = _fold(" and ", "True")


def _count(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    if not isinstance(args[0].type, VecType):
        return None
    return Value(kind, code="(" + " + ".join(f"({code})" for code in em.elements(args[0])) + " + 0)")


INLINE["count"] = _count


def _mean(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    if not isinstance(args[0].type, VecType):
        return None
    return Value(kind, code=f"(({' + '.join(em.elements(args[0]))}) / {args[0].type.length})")


INLINE["mean"] = _mean


def _arg(comparison: str) -> Inline:
    def inline(em: Emitter, args: list[Value], kind: Type) -> Value | None:
        elements = em.atoms(args[0])
        if len(elements) == 1:
            return Value(kind, code="0", const=0)
        if len(elements) == 2:
            return Value(kind, code=f"(1 if {elements[1]} {comparison} {elements[0]} else 0)")
        if len(elements) != 3:
            return None
        a, b, c = elements
        first = f"(2 if {c} {comparison} {b} else 1)" if comparison else ""
        return Value(kind, code=f"({first} if {b} {comparison} {a} else (2 if {c} {comparison} {a} else 0))")

    return inline


INLINE["argmax"] = _arg(">")
INLINE["argmin"] = _arg("<")


def _argsort(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    elements = em.atoms(args[0])
    if len(elements) == 2:
        swap = em.bind(f"{elements[1]} < {elements[0]}")
        return Value(kind, elements=[f"(1 if {swap} else 0)", f"(0 if {swap} else 1)"])
    keys = em.bind("(" + ", ".join(elements) + ",)")
    order = em.bind(f"sorted(range({len(elements)}), key={keys}.__getitem__)")
    return Value(kind, elements=[f"{order}[{axis}]" for axis in range(len(elements))])


INLINE["argsort"] = _argsort
INLINE["inverse"] = _argsort


def _constants(text: str) -> Inline:
    def inline(_em: Emitter, _args: list[Value], kind: Type) -> Value | None:
        assert isinstance(kind, VecType)
        return Value(kind, elements=[text] * kind.length)

    return inline


INLINE["zeros"] = _constants("0")
INLINE["ones"] = _constants("1")


def literal_axis(value: Value) -> int | None:
    """The axis, when it is known while compiling."""
    return value.const if isinstance(value.const, int) else None


def _compare_axis(template: str) -> Inline:
    def inline(em: Emitter, args: list[Value], kind: Type) -> Value | None:
        assert isinstance(kind, VecType)
        axis = em.bind(em.packed(args[0]))
        return Value(kind, elements=[template.format(axis, position) for position in range(kind.length)])

    return inline


INLINE["unit"] = _compare_axis("(1 if {0} == {1} else 0)")
INLINE["is_axis"] = _compare_axis("({0} == {1})")


def _take(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    packed = em.bind(em.packed(args[0]))
    return Value(kind, elements=[f"{packed}[{axis}]" for axis in em.elements(args[1])])


INLINE["take"] = _take


def _drop_first(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    return Value(kind, elements=em.elements(args[0])[1:])


INLINE["drop_first"] = _drop_first


def _prepend(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    return Value(kind, code=f"({em.packed(args[1])}, *{em.packed(args[0])})")


def _append(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    return Value(kind, code=f"(*{em.packed(args[0])}, {em.packed(args[1])})")


def _length(em: Emitter, args: list[Value], kind: Type) -> Value | None:
    if isinstance(args[0].type, VecType):
        return Value(kind, code=str(args[0].type.length), const=args[0].type.length)
    return Value(kind, code=f"len({em.packed(args[0])})")


INLINE["prepend"] = _prepend
INLINE["append"] = _append
INLINE["length"] = _length
