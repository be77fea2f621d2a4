# ruff: noqa: E501 - rules in one line read like a table
"""Each inlined builtin against its implementation in ``nnrules.functions``: same value, same type, same sign of zero."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnrules.engine.emit import Emitter, Value
from nnrules.engine.inline import INLINE
from nnrules.engine.program import generated_namespace
from nnrules.engine.types import BOOL, NUM, STR, ListType, MaskedType, Type, VecType
from nnrules.functions import BUILTINS, TypingError

# Few values, so that ties are common; zeros of both signs, halves, whole floats, and integers no float can hold.
numbers = st.sampled_from(
    [0, 1, 2, 3, 7, -1, -2, 0.0, -0.0, 0.5, 1.5, 2.5, -2.5, 1.0, 2.0, 1e-9, 1e300, 2**53 + 1, 0.1]
)
small = st.sampled_from([1, 2, 4, 8, 0.5, 2.0, 3])
booleans = st.booleans()


def vectors(dim: int, items: st.SearchStrategy[Any] = numbers) -> st.SearchStrategy[Any]:
    return st.tuples(*[items] * dim)


def orders(dim: int) -> st.SearchStrategy[Any]:
    return st.permutations(range(dim)).map(tuple)


def lists() -> st.SearchStrategy[Any]:
    return st.lists(numbers, min_size=1, max_size=5).map(tuple)


LIST = ListType(NUM)


def forms(name: str, dim: int) -> list[list[tuple[Type, st.SearchStrategy[Any]]]]:
    """The kinds of arguments that a builtin is tried on."""
    number, vector, flags = (
        (NUM, numbers),
        (VecType(dim, NUM), vectors(dim)),
        (VecType(dim, BOOL), vectors(dim, booleans)),
    )
    flag, order = (BOOL, booleans), (VecType(dim, NUM), orders(dim))
    if name in ("abs", "round", "floor", "ceil", "truncate", "log"):
        return [[number], [vector], [flags]]
    if name in ("minimum", "maximum"):
        return [[number, number], [vector, number], [number, vector], [vector, vector], [flags, vector]]
    if name == "round_up":
        step = (NUM, small)
        return [[number, step], [vector, step], [vector, (VecType(dim, NUM), vectors(dim, small))]]
    if name == "where":
        return [[flag, number, number], [flags, vector, number], [flags, number, number], [flags, vector, vector],
                [flag, vector, number], [flags, flags, flags]]  # fmt: skip
    if name in ("min", "max"):
        return [[vector], [number, number, number], [(LIST, lists())]]
    if name in ("sum", "prod", "mean"):
        return [[vector], [(LIST, lists())]]
    if name in ("any", "all", "count"):
        return [[flags]]
    if name in ("zeros", "ones"):
        return [[(NUM, st.just(dim))]]
    if name in ("unit", "is_axis"):
        return [[(NUM, st.integers(0, dim - 1))]]
    if name == "inverse":
        return [[order]]
    if name == "take":
        return [[vector, order], [flags, order]]
    if name in ("prepend", "append"):
        return [
            [(LIST, lists()), number],
            [vector, number],
            [(ListType(VecType(dim, NUM)), st.lists(vectors(dim)).map(tuple)), vector],
        ]
    if name == "length":
        return [[vector], [(LIST, lists())], [(ListType(STR), st.lists(st.text("ab")).map(tuple))]]
    return [[vector]]


def outcome(call: Any) -> Any:
    try:
        return repr(call())
    except (ArithmeticError, ValueError) as exc:
        return type(exc)


def inlined(name: str, kinds: list[Type], values: list[Any], dim: int, *, masks: Any = None) -> Any:
    """What the inlined form gives, or ``...`` when there is none for these arguments."""
    emitter = Emitter()
    arguments = [Value(kind, code=f"a{position}") for position, kind in enumerate(kinds)]
    if masks is not None:
        selection = MaskedType(dim, kinds[0].item)  # type: ignore[union-attr, arg-type]
        arguments = [
            Value(selection, elements=emitter.elements(arguments[0]), mask=[repr(flag) for flag in masks])
        ]
    result = INLINE[name](emitter, arguments, BUILTINS[name].typing([value.type for value in arguments], dim))
    if result is None:
        return ...
    emitter.emit(f"return {emitter.packed(result)}")
    lines = [f"def f({', '.join(f'a{n}' for n in range(len(kinds)))}):", *(line for line, _ in emitter.lines)]
    namespace = generated_namespace()
    exec("\n".join(lines), namespace)
    return outcome(lambda: namespace["f"](*values))


def implemented(name: str, values: list[Any], dim: int) -> Any:
    declared = BUILTINS[name]
    leading = [dim] if declared.uses_dim else []
    return outcome(lambda: declared.call(*leading, *values))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", sorted(INLINE))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_inlined_builtins_are_their_implementations(name: str, dim: int, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(range(len(forms(name, dim)))))
    arguments = forms(name, dim)[form]
    kinds = [kind for kind, _ in arguments]
    values = [data.draw(strategy) for _, strategy in arguments]
    got = inlined(name, kinds, values, dim)
    if got is not ...:
        assert got == implemented(name, values, dim), f"{name}{tuple(values)}"


@pytest.mark.parametrize("name", sorted(INLINE))
def test_every_inlined_builtin_has_an_inline_form_that_was_compared(name: str) -> None:
    """Nothing above is true only because no inline form was ever made."""
    made = 0
    for arguments in forms(name, 3):
        kinds = [kind for kind, _ in arguments]
        emitter = Emitter()
        values = [Value(kind, code=f"a{position}") for position, kind in enumerate(kinds)]
        made += INLINE[name](emitter, values, BUILTINS[name].typing(kinds, 3)) is not None
    assert made


@pytest.mark.parametrize("name", ["min", "max", "sum", "prod", "any", "all"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_inlined_reductions_of_selections(name: str, data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([2, 3]))
    kind = BOOL if name in ("any", "all") else NUM
    # Selected zeros lose their sign in a sum with what was left out, so none are negative here.
    items = booleans if kind == BOOL else numbers.filter(lambda value: repr(value) != "-0.0")
    values, masks = data.draw(vectors(dim, items)), data.draw(vectors(dim, booleans))
    selected = tuple(value for value, chosen in zip(values, masks, strict=True) if chosen)
    got = inlined(name, [VecType(dim, kind)], [values], dim, masks=masks)
    assert got == implemented(name, [selected], dim), f"{name}({values}[{masks}])"


def test_builtins_refuse_what_they_cannot_take() -> None:
    for name in BUILTINS:
        with pytest.raises(TypingError):
            BUILTINS[name].typing([STR if name != "lower" else NUM] * max(BUILTINS[name].min_args, 1), 3)


def test_elementwise_builtins_agree_with_numpy_on_cases() -> None:
    generator = np.random.default_rng(5)
    matrix = generator.uniform(-4, 9, (20, 3)).round(1)
    columns = {"abs": np.abs, "round": np.round, "floor": np.floor, "ceil": np.ceil, "truncate": np.trunc}
    for name, wanted in columns.items():
        got = BUILTINS[name].call(matrix)
        assert np.array_equal(got, wanted(matrix)), name
        rows = [BUILTINS[name].call(tuple(row)) for row in matrix.tolist()]
        assert np.array_equal(got, np.array(rows, float)), name
    assert np.array_equal(BUILTINS["minimum"].call(matrix, (1, 2, 3)), np.minimum(matrix, [1, 2, 3]))
    assert np.array_equal(BUILTINS["maximum"].call((1, 2, 3), matrix), np.maximum(matrix, [1, 2, 3]))
    assert np.array_equal(BUILTINS["round_up"].call(matrix, 2), np.ceil(matrix / 2) * 2)
