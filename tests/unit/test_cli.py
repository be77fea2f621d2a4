# ruff: noqa: E501 - rules in one line read like a table
"""The command line: verbs, options, exit codes, JSON, errors without tracebacks."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from nnrules.cli import app, run
from nnrules.fingerprint import Fingerprint
from nnrules.plan import Plan

# Frozen: a script that works with this version works with the next. Additions are welcome, removals are not.
VERBS: dict[str, set[str]] = {
    "plan": {"source", "--rules", "--preset", "--gpu-memory-gb", "--set", "-o", "--output", "--from-nnunet", "--workers", "--json"},
    "fingerprint": {"dataset", "-o", "--output", "--features", "--intensity", "--workers", "--json"},
    "check": {"dataset", "--workers", "--json"},
    "validate": {"plan", "--json"},
    "explain": {"plan", "path", "--rules", "--json"},
    "diff": {"a", "b", "--rules", "--preset", "--gpu-memory-gb", "--from-nnunet", "--json"},
    "rules list": {"--json"},
    "rules show": {"--json"},
    "rules lint": {"--json"},
    "rules test": {"--json"},
    "rules lock": set(),
    "export nnunetv2": {"plan"},
    "demo": set(),
}  # fmt: skip


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            options = set()
            for parameter in command.params:
                options |= (
                    {parameter.name} if parameter.param_type_name == "argument" else set(parameter.opts)
                )
            yield f"{prefix}{name}", options


def test_verbs_and_options_are_kept() -> None:
    found = dict(commands(typer.main.get_command(app)))
    for verb, options in VERBS.items():
        assert verb in found
        assert options <= found[verb], f"{verb} lost {options - found[verb]}"


@pytest.fixture(scope="module")
def fingerprint(
    make_fingerprint: Callable[..., Fingerprint], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("cli") / "fingerprint.json"
    make_fingerprint([[120, 512, 512]] * 5, [[2.0, 0.8, 0.8]] * 5).save(path)
    return path


@pytest.fixture(scope="module")
def plans(fingerprint: Path) -> tuple[Path, Path]:
    paths = (fingerprint.with_name("a.json"), fingerprint.with_name("b.json"))
    assert run(["plan", str(fingerprint), "-o", str(paths[0])]) == 0
    assert run(["plan", str(fingerprint), "--gpu-memory-gb", "11", "-o", str(paths[1])]) == 0
    return paths


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_it(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run_it


Call = Callable[..., tuple[int, str, str]]


def test_plan(call: Call, fingerprint: Path, tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    code, out, err = call("plan", fingerprint, "-o", target)
    assert (code, err) == (0, "")
    assert "patch size" in out
    assert "2d" in out
    assert str(target) in out.replace("\n", "")
    plan = Plan.load(target)
    code, out, _ = call("plan", fingerprint, "--json")
    assert code == 0
    assert out == target.read_text()
    code, out, _ = call(
        "plan",
        fingerprint,
        "--json",
        "--rules",
        "nnunet-resenc",
        "--preset",
        "L",
        "--set",
        "training.epochs=5",
    )
    document = json.loads(out)
    assert document["training"]["epochs"] == 5
    assert document["provenance"]["pack"]["preset"] == "L"
    assert document["provenance"]["budget"]["gpu_memory_gb"] == 24
    assert document["provenance"]["overrides"] == {"training.epochs": 5}
    assert plan.get("training.epochs") == 1000


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["plan"], "name one dataset"),
        (["plan", "FP", "--from-nnunet", "FP", "FP"], "name one dataset"),
        (["plan", "absent.json"], "no such file"),
        (["plan", "FP", "--rules", "nnunte"], "no such rule pack"),
        (["plan", "FP", "--rules", "absent.yaml"], "no such file"),
        (["plan", "FP", "--preset", "L"], "no such preset"),
        (["plan", "FP", "--set", "training.epochs"], "not an assignment"),
        (["plan", "FP", "--set", "training.epochs=1", "--set", "training.epochs=2"], "the field is set twice"),
        (["plan", "FP", "--set", "training.epocs=1"], "no rule of this pack decides this field"),
        (["plan", "FP", "--set", "configurations.3d_fullres.patch_size=[65,64,64]"], "The nearest valid value is"),
        (["plan", "FP", "--gpu-memory-gb", "-3"], "not an amount of GPU memory"),
        (["plan", "FP", "--gpu-memory-gb", "much"], "--gpu-memory-gb"),
        (["plan", "FP", "-o", "no/folder/plan.json"], "cannot write here"),
        (["plan", "FP", "--workers", "0"], "--workers"),
        (["plan", "PLAN"], ""),
        (["validate", "FP"], ""),
        (["explain", "FP"], ""),
        (["explain", "PLAN", "training.epocs"], "the plan has no such field"),
        (["diff", "PLAN"], "two plans, or one fingerprint and two --rules, are needed"),
        (["diff", "FP", "--rules", "nnunet@1.0.0"], "are needed"),
        (["diff", "PLAN", "absent.json"], "no such file"),
        (["fingerprint", "absent"], ""),
        (["fingerprint", "FP", "--intensity", "rough"], ""),
        (["nothing"], "nothing"),
        (["plan", "--nothing"], "--nothing"),
        (["rules", "show", "nothing"], "no such rule pack"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["text", "json"])
def test_errors_leave_with_2_and_say_what_to_do(
    call: Call,
    fingerprint: Path,
    plans: tuple[Path, Path],
    arguments: list[str],
    what: str,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(fingerprint.parent)
    places = {"FP": str(fingerprint), "PLAN": str(plans[0])}
    given = [places.get(argument, argument) for argument in arguments]
    before = {path.name for path in fingerprint.parent.iterdir()}
    code, out, err = call(*given, *(["--json"] if form == "json" else []))
    assert code == 2
    assert out == ""
    assert what in err.replace("\\", "")
    if form == "json":
        problems = json.loads(err)["errors"]
        assert problems
        assert all(problem["where"] and problem["what"] for problem in problems)
    assert {path.name for path in fingerprint.parent.iterdir()} == before


def test_several_problems_are_counted(call: Call, fingerprint: Path) -> None:
    code, _, err = call("plan", fingerprint, "--set", "a=1", "--set", "b=2")
    assert code == 2
    assert err.splitlines()[-1] == "2 problems"


def test_validate(call: Call, plans: tuple[Path, Path]) -> None:
    code, out, _ = call("validate", plans[0])
    assert code == 0
    assert "valid" in out
    code, out, _ = call("validate", plans[0], "--json")
    assert json.loads(out)["valid"] is True


def test_explain(call: Call, plans: tuple[Path, Path]) -> None:
    code, out, _ = call("explain", plans[0], "configurations.3d_fullres.patch_size")
    assert code == 0
    assert "patch.size_and_topology" in out
    assert "rounds of fit_patch" in out
    code, out, _ = call("explain", plans[0], "configurations.3d_fullres.patch_size", "--json")
    document = json.loads(out)
    assert document["rule"] == "patch.size_and_topology"
    assert document["rounds"]
    code, out, _ = call("explain", plans[0])
    assert code == 0
    assert "training.epochs" in out
    code, out, _ = call("explain", plans[0], "--json")
    rows = json.loads(out)
    assert len(rows) == len(list(Plan.load(plans[0]).leaves()))
    assert set(rows[0]) == {"path", "value", "decided_by"}
    code, out, _ = call("explain", plans[0], "training.optimizer")
    assert "momentum" in out


def test_diff(call: Call, plans: tuple[Path, Path], fingerprint: Path, tmp_path: Path) -> None:
    code, out, _ = call("diff", plans[0], plans[0])
    assert code == 0
    assert "No difference" in out
    code, out, _ = call("diff", *plans)
    assert code == 1
    assert "causes" in out
    assert "the memory target" in out
    code, out, _ = call("diff", *plans, "--json")
    assert code == 1
    document = json.loads(out)
    assert document["same"] is False
    assert document["context"] == {"GPU memory (GB)": [8.0, 11.0]}
    code, out, _ = call("diff", fingerprint, "--rules", "nnunet@1.0.0", "--rules", "nnunet@2.8.0", "--json")
    assert code == 1
    assert json.loads(out)["context"]["pack"] == ["nnunet@1.0.0", "nnunet@2.8.0"]
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "title: M\nextends: nnunet@2.8.0\nparams: {min_batch: {value: 2, unit: samples, doc: as before}}\n"
    )
    code, out, _ = call("diff", fingerprint, "--rules", "nnunet@2.8.0", "--rules", overlay, "--json")
    assert code == 0
    assert json.loads(out)["same"] is True


def test_a_plan_from_nnunets_own_files(call: Call, tmp_path: Path, fingerprint: Path) -> None:
    dataset = {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 3, "file_ending": ".nii.gz"
    }  # fmt: skip
    statistics = dict.fromkeys(
        ("mean", "std", "min", "median", "max", "percentile_00_5", "percentile_99_5"), 1.0
    )
    measured = {
        "spacings": [[2.0, 0.8, 0.8]] * 3, "shapes_after_crop": [[120, 512, 512]] * 3,
        "median_relative_size_after_cropping": 1.0, "foreground_intensity_properties_per_channel": {"0": statistics},
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    (tmp_path / "fp.json").write_text(json.dumps(measured))
    code, out, _ = call("plan", "--from-nnunet", tmp_path / "fp.json", tmp_path / "dataset.json", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["dataset"]["num_training"] == 3
    assert document["provenance"]["inputs"]["cases.spacing"]["median"] == [2.0, 0.8, 0.8]
    code, beside, _ = call("plan", tmp_path / "fp.json", "--json")
    assert (code, beside) == (0, out)
    (tmp_path / "dataset.json").rename(tmp_path / "elsewhere.json")
    code, _, err = call("plan", tmp_path / "fp.json")
    assert code == 2
    assert "--from-nnunet" in err


def test_help_and_nothing(call: Call) -> None:
    for arguments in (["--help"], ["plan", "--help"], ["rules", "--help"]):
        code, out, _ = call(*arguments)
        assert code == 0
        assert "Usage" in out
    code, _, _ = call()
    assert code in (0, 2)


def test_warnings_of_an_overlay_are_shown(
    call: Call, fingerprint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "title: M\nextends: nnunet@2.8.0\nparams: {min_batch: {value: 2, unit: samples, doc: d, replaces: '000000000000'}}\n"
    )
    code, _, _ = call("plan", fingerprint, "--rules", overlay)
    assert code == 0
    assert any("upstream it is now" in record.getMessage() for record in caplog.records)


def test_the_commands_of_the_runtime_are_mounted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "Execute a plan" in capsys.readouterr().out
    assert run(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("preprocess", "train", "predict", "evaluate"))


def test_own_commands_do_not_look_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nnrules.cli.extensions.entry_points", lambda **_: pytest.fail("entry points were read")
    )
    assert run(["rules", "--help"]) == 0
    assert run(["plan", "--help"]) == 0
