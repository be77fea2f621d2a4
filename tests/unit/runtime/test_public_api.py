"""What importing the runtime gives, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import nnrules_runtime

ROOT = Path(__file__).resolve().parents[3]
HEAVY = (
    "torch",
    "SimpleITK",
    "jsonschema",
    "numpy",
    "scipy",
    "blosc2",
    "safetensors",
    "yaml",
    "rich",
    "typer",
)


def imported(code: str) -> set[str]:
    """Heavy modules that are loaded after some code ran in a process of its own."""
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(result.stdout.split())


def test_importing_the_package_costs_nothing() -> None:
    assert imported("import nnrules_runtime") == set()


def test_the_help_of_the_commands_needs_no_torch() -> None:
    code = "from nnrules.cli import run\nassert run(['run', '--help']) == 0"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nassert 'torch' not in sys.modules"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_public_names_are_sorted_and_all_there() -> None:
    assert nnrules_runtime.__all__ == sorted(nnrules_runtime.__all__)
    for name in nnrules_runtime.__all__:
        value = getattr(nnrules_runtime, name)
        assert value.__doc__, name
        assert value.__name__ == name
        assert value.__module__.startswith("nnrules_runtime.")
    assert set(nnrules_runtime.__all__) < set(dir(nnrules_runtime))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nnrules_runtime.nothing


def test_the_page_names_exactly_the_public_names() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    runtime = page.split("## Executing plans")[1]
    rows = [line.split("`")[1].partition("(")[0] for line in runtime.splitlines() if line.startswith("| `")]
    assert rows == list(nnrules_runtime.__all__)


def test_every_module_lists_public_names_that_exist() -> None:
    import importlib
    import pkgutil

    for module in pkgutil.walk_packages(nnrules_runtime.__path__, "nnrules_runtime."):
        if module.name == "nnrules_runtime.train.events":  # needs the extra tensorboard
            continue
        loaded = importlib.import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            assert hasattr(loaded, name), f"{module.name}.{name}"
