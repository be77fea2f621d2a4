"""What importing gives, and what it costs."""

import subprocess
import sys

import nnrules
import pytest

HEAVY = ("torch", "SimpleITK", "jsonschema", "numpy", "yaml", "rich", "typer", "jinja2")


def imported(code: str) -> set[str]:
    """Heavy modules that are loaded after some code ran in a process of its own."""
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(result.stdout.split())


def test_importing_the_package_costs_nothing() -> None:
    assert imported("import nnrules") == set()


def test_planning_needs_neither_torch_nor_simpleitk() -> None:
    loaded = imported(
        "from nnrules import make_plan, load_pack, Fingerprint, Plan, explain, diff_plans; load_pack()"
    )
    assert not loaded & {"torch", "SimpleITK", "jsonschema", "rich", "typer", "jinja2"}


def test_the_command_line_starts_light() -> None:
    assert not imported("import nnrules.cli") & {"torch", "SimpleITK", "jsonschema", "numpy", "yaml"}


def test_public_names_are_sorted_and_all_there() -> None:
    assert nnrules.__all__ == sorted(nnrules.__all__)
    for name in nnrules.__all__:
        value = getattr(nnrules, name)
        assert value.__doc__, name
        assert value.__module__.startswith("nnrules.")
    assert set(nnrules.__all__) < set(dir(nnrules))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nnrules.nothing


def test_every_module_lists_public_names_that_exist() -> None:
    import importlib
    import pkgutil

    for module in pkgutil.walk_packages(nnrules.__path__, "nnrules."):
        if module.name.endswith("__main__"):
            continue
        loaded = importlib.import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            assert hasattr(loaded, name), f"{module.name}.{name}"
