"""Compiles the pack's functions: one Python function for each combination of argument types and dimension."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nnrules.engine.compile_expression import ExpressionCompiler
from nnrules.engine.compiling import constant_value
from nnrules.engine.emit import Emitter, Value
from nnrules.engine.expressions import Expression
from nnrules.engine.model import Function, Pack, Step, Template
from nnrules.engine.source import Place
from nnrules.engine.types import COLUMN, JSON, MATRIX, ListType, RecordType, Type, VecType, holds_record
from nnrules.errors import RuleError

__all__ = ["FunctionLibrary", "compile_template"]


def compile_template(compiler: ExpressionCompiler, template: Template) -> Value:
    """Compile an expression, or a mapping or list of expressions."""
    if isinstance(template, Expression):
        return compiler.compile(template)
    if isinstance(template, tuple):
        values = [compile_template(compiler, item) for item in template]
        kinds = {value.type for value in values}
        item = next(iter(kinds)) if len(kinds) == 1 else None if not kinds else JSON
        if item == JSON and any(holds_record(kind) for kind in kinds):
            raise RuleError(
                _first_place(template, compiler).problem(
                    "entries of a list must have the same fields",
                    got="; ".join(sorted(map(str, kinds))),
                    fix="Write it as a 'constant', or give all entries the same fields.",
                )
            )
        code = "(" + "".join(compiler.em.packed(value) + ", " for value in values) + ")"
        return Value(ListType(item), code=compiler.em.bind(code))
    fields = {key: compile_template(compiler, item) for key, item in template.items()}
    kind = RecordType(tuple((key, value.type) for key, value in fields.items()))
    return Value(kind, fields=fields)


def _first_place(template: Template, compiler: ExpressionCompiler) -> Place:
    """Where the first expression of a template stands."""
    if isinstance(template, Expression):
        return template.place
    for item in template.values() if isinstance(template, Mapping) else template:
        return _first_place(item, compiler)
    assert compiler.em.place is not None
    return compiler.em.place


@dataclass(slots=True)
class CompiledFunction:
    """A function compiled for one combination of argument types.

    Attributes:
        name: its name in the generated code.
        result: the type that it returns.
        params: the parameters that it reads, directly or through others.
    """

    name: str
    result: Type
    params: frozenset[str]


@dataclass(slots=True)
class FunctionLibrary:
    """All compiled functions of one pack.

    Attributes:
        pack: where the functions come from.
        traced: whether loops record their rounds (for ``explain``).
        sources: the statements of each compiled function.
    """

    pack: Pack
    traced: bool = False
    sources: list[tuple[str, Emitter]] = field(default_factory=list)
    _compiled: dict[tuple[str, int, tuple[Type, ...]], CompiledFunction] = field(default_factory=dict)
    _active: list[str] = field(default_factory=list)

    def call(self, em: Emitter, name: str, args: list[Value], dim: int) -> tuple[Value, str, frozenset[str]]:
        """Emit a call; returns the result, the Python code of its number of rounds, and the parameters read."""
        compiled = self.compiled(name, tuple(arg.type for arg in args), dim, em.place)
        code = em.bind(f"{compiled.name}(m, {', '.join(em.packed(arg) for arg in args)})", "r")
        if isinstance(compiled.result, (RecordType, VecType)):
            packed = em.bind(f"{code}[0]", "r")
            return Value(compiled.result, code=packed, _scope=em.scope), f"{code}[1]", compiled.params
        return Value(compiled.result, code=f"{code}[0]", _scope=em.scope), f"{code}[1]", compiled.params

    def compiled(
        self, name: str, kinds: tuple[Type, ...], dim: int, caller: Place | None
    ) -> CompiledFunction:
        """The compiled form for these argument types, made on first use."""
        key = (name, dim, kinds)
        found = self._compiled.get(key)
        if found is None:
            function = self.pack.functions[name]
            if name in self._active:
                cycle = " → ".join([*self._active[self._active.index(name) :], name])
                raise RuleError(
                    (caller or function.place).problem(
                        "functions may not call each other in a circle",
                        got=cycle,
                        fix="Use 'repeat' to loop.",
                    )
                )
            self._active.append(name)
            try:
                found = _FunctionCompiler(self, function, kinds, dim, len(self.sources)).compile()
            finally:
                self._active.pop()
            self._compiled[key] = found
        return found


class _FunctionNames:
    """Names inside a function: arguments, its own variables, parameters, dim."""

    def __init__(self, library: FunctionLibrary, function: Function, dim: int) -> None:
        self.library = library
        self.function = function
        self.dim = dim
        self.variables: dict[str, Value] = {}
        self.params_read: set[str] = set()

    def lookup(self, em: Emitter, name: str) -> Value | None:  # noqa: ARG002 - the protocol's signature
        if name in self.variables:
            return self.variables[name]
        if name == "dim":
            return constant_value(self.dim)
        param = self.library.pack.params.get(name)
        if param is not None:
            self.params_read.add(name)
            return constant_value(param.value)
        return None

    def has(self, name: str) -> str | None:
        return "True" if name in self.variables else None

    def call(self, em: Emitter, name: str, args: list[Value]) -> Value:
        result, _, params = self.library.call(em, name, args, self.dim)
        self.params_read |= params
        return result

    def known(self) -> Iterable[str]:
        return [*self.variables, *self.library.pack.params, "dim"]

    def known_functions(self) -> Iterable[str]:
        return self.library.pack.functions

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        function = self.library.pack.functions.get(name)
        return None if function is None else function.args


class _FunctionCompiler:
    def __init__(
        self, library: FunctionLibrary, function: Function, kinds: tuple[Type, ...], dim: int, number: int
    ) -> None:
        self.library = library
        self.function = function
        self.kinds = kinds
        self.number = number
        self.name = f"f{number}_{function.name}"
        self.em = Emitter()
        # Registered before it is compiled, so that the functions it calls get other numbers.
        library.sources.append((self.name, self.em))
        self.names = _FunctionNames(library, function, dim)
        self.compiler = ExpressionCompiler(self.em, self.names)
        self.state: dict[str, Value] = {}
        self.collected: dict[str, Type] = {}
        self.before: list[str] = []

    def compile(self) -> CompiledFunction:
        em, function = self.em, self.function
        em.place = function.place
        header = "".join(f", a_{name}" for name in function.args)
        em.lines.append((f"def {self.name}(m{header}):", function.place))
        memoised = not any(kind in (MATRIX, COLUMN, JSON) for kind in self.kinds)
        if memoised:
            # Bytes rather than the values themselves, because 1, 1.0 and True are equal, and so are 0.0 and -0.0.
            packed = "".join(f"a_{name}, " for name in function.args)
            em.emit(f"key = ({self.number}, dumps(({packed}), 2))")
            em.emit("found = m.get(key)")
            em.emit("if found is not None: return found")
        for name, kind in zip(function.args, self.kinds, strict=True):
            self.declare(name, em.name_value(Value(kind, code=f"a_{name}"), f"v_{name}"), function.place)
        self.start()
        rounds = self.loop() if function.steps else "0"
        em.emit(f"spend(m, {rounds}, {function.name!r})")
        result = compile_template(self.compiler, function.result)
        em.place = function.place
        em.emit(f"result = ({em.packed(result)}, {rounds})")
        if memoised:
            em.emit("m[key] = result")
        em.emit("return result")
        return CompiledFunction(self.name, result.type, frozenset(self.names.params_read))

    def declare(self, name: str, value: Value, place: Place) -> None:
        if name in self.names.variables:
            raise RuleError(place.problem(f"'{name}' is already a name here", fix="Choose another name."))
        if name in self.library.pack.params or name == "dim":
            raise RuleError(
                place.problem(f"'{name}' would hide the parameter of that name", fix="Choose another name.")
            )
        self.names.variables[name] = value

    def start(self) -> None:
        changing = {name for step in self.function.steps for name in (step.set or {})}
        for name, expression in self.function.start.items():
            value = self.compiler.compile(expression)
            if name in changing:
                variable = self.em.variable(value.type, f"s_{name}")
                self.em.assign_together([variable], [value])
                self.state[name] = variable
                self.declare(name, variable, expression.place)
            else:
                self.declare(name, self.em.name_value(value, f"s_{name}"), expression.place)
        missing = changing - set(self.function.start)
        if missing:
            raise RuleError(
                self.function.place.problem(
                    f"'set' changes {', '.join(sorted(missing))}, which 'start' does not define",
                    fix="Give it a first value under start.",
                )
            )

    def loop(self) -> str:
        em, function = self.em, self.function
        for step in function.steps:
            for name in step.collect or {}:
                if name not in self.collected:
                    em.emit(f"c_{name} = []")
                    self.collected[name] = ListType(None)
        self.renew_state()
        variables = dict(self.names.variables)
        self.before = [name for name in self.names.variables if name not in function.args]
        with em.block(f"for k in range({function.at_most}):"):
            if self.library.traced:
                em.emit("before = {" + ", ".join(self.shown(self.before)) + "}")
            for step in function.steps:
                self.step(step)
            if self.library.traced:
                self.trace(None)
        em.emit(f"else: at_most_reached({function.name!r}, {function.at_most})")
        self.names.variables = variables
        self.renew_state()
        for name, kind in self.collected.items():
            self.names.variables[name] = Value(kind, code=em.bind(f"tuple(c_{name})"))
        return "k"

    def renew_state(self) -> None:
        """After an assignment nothing unpacked from the old value may be used again."""
        for name, value in self.state.items():
            self.state[name] = self.em.variable(value.type, f"s_{name}")
            self.names.variables[name] = self.state[name]

    def step(self, step: Step) -> None:
        em = self.em
        for name, expression in (step.let or {}).items():
            self.declare(
                name, em.name_value(self.compiler.compile(expression), f"l_{name}"), expression.place
            )
        if step.stop_if is not None:
            condition = self.compiler.condition(step.stop_if, "stop_if")
            with em.block(f"if {em.packed(condition)}:"):
                if self.library.traced:
                    self.trace(step.because or str(step.stop_if))
                em.emit("break")
        if step.set:
            values = {name: self.compiler.compile(expression) for name, expression in step.set.items()}
            for name, value in values.items():
                if value.type != self.state[name].type:
                    raise RuleError(
                        step.set[name].place.problem(
                            f"'{name}' changes its type",
                            got=str(value.type),
                            expected=str(self.state[name].type),
                        )
                    )
            em.place = step.place
            em.assign_together([self.state[name] for name in values], list(values.values()))
            self.renew_state()
        for name, expression in (step.collect or {}).items():
            value = self.compiler.compile(expression)
            kind = self.collected[name]
            assert isinstance(kind, ListType)
            if kind.item not in (None, value.type):
                raise RuleError(
                    expression.place.problem(
                        "collected values must have one type", got=str(value.type), expected=str(kind.item)
                    )
                )
            self.collected[name] = ListType(value.type)
            em.emit(f"c_{name}.append({em.packed(value)})")

    def shown(self, names: Iterable[str]) -> list[str]:
        """Dict entries of variables that fit a table: numbers, truth values, axis vectors, and such record fields."""
        entries = []
        for name in names:
            value = self.names.variables[name]
            if isinstance(value.type, RecordType):
                entries += [
                    f"'{name}.{key}': {value.code}[{position}]"
                    for position, (key, kind) in enumerate(value.type.fields)
                    if not isinstance(kind, (RecordType, ListType)) and value.code is not None
                ]
            elif not isinstance(value.type, ListType):
                entries.append(f"{name!r}: {self.em.packed(value)}")
        return entries

    def trace(self, stopped: str | None) -> None:
        """Record a round: the state that it began with, and what it computed from it."""
        lets = [
            name
            for name in self.names.variables
            if name not in self.before and name not in self.function.args
        ]
        state = "{**before, " + ", ".join(self.shown(lets)) + "}"
        self.em.emit(f"m['trace'].append(({self.function.name!r}, k, {state}, {stopped!r}))")
