"""Outputs that cannot take what is written: devices, links, full disks, closed pipes, old encodings."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from nnrules.cli import run

FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


def nnrules(
    *arguments: str, encoding: str | None = None, **options: object
) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, with its output as bytes."""
    environment = {**os.environ, **({"PYTHONIOENCODING": encoding} if encoding else {})}
    command = [sys.executable, "-m", "nnrules", *arguments]
    settings = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment,
        "timeout": 60,
        **options,
    }
    return subprocess.run(command, check=False, **settings)  # type: ignore[call-overload,no-any-return]


def test_a_link_stays_and_its_file_is_replaced(workspace: Path):
    (workspace / "real.json").write_text("old")
    (workspace / "link.json").symlink_to("real.json")
    assert run(["plan", "fingerprint.json", "-o", "link.json"]) == 0
    assert (workspace / "link.json").is_symlink()
    assert json.loads((workspace / "real.json").read_text())["schema_version"]


def test_a_pipe_is_written_to_and_stays(workspace: Path):
    os.mkfifo(workspace / "pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, cwd=workspace) as reader:
        assert run(["plan", "fingerprint.json", "-o", "pipe"]) == 0
        assert reader.stdout is not None
        assert json.loads(reader.stdout.read())["schema_version"]
    assert stat.S_ISFIFO((workspace / "pipe").stat().st_mode)


def test_a_name_as_long_as_names_may_be(workspace: Path):
    name = "n" * 250 + ".json"
    assert run(["plan", "fingerprint.json", "-o", name]) == 0
    assert json.loads((workspace / name).read_text())["schema_version"]


@needs_full_device
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_disk(workspace: Path, form: list[str]):
    with FULL.open("w") as full:
        done = nnrules("plan", "fingerprint.json", *form, stdout=full)
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_reader_that_stops_early(workspace: Path):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = nnrules("plan", "fingerprint.json", "--json", stdout=closed)
    assert done.stderr == b""


def test_output_in_an_encoding_without_our_signs(workspace: Path):
    shown = nnrules("plan", "fingerprint.json", encoding="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "56 × 40" in shown.stdout.decode("utf-8")
    machine = nnrules("plan", "fingerprint.json", "--json", encoding="latin-1")
    assert json.loads(machine.stdout.decode("utf-8"))["schema_version"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
@pytest.mark.parametrize("verb", ["fingerprint", "check", "plan"])
def test_file_names_that_are_not_text(workspace: Path, verb: str):
    """SimpleITK would end the process without a word about the file."""
    for folder, ending in (("imagesTr", b"_0000"), ("labelsTr", b"")):
        name = b"data/" + folder.encode() + b"/\xff" + ending + b".nii.gz"
        os.link(f"data/{folder}/a{ending.decode()}.nii.gz", name)
    done = nnrules(verb, "data")
    assert done.returncode == 2
    assert b"data/labelsTr/\\udcff.nii.gz: the name of the file is not UTF-8. Rename the file." in done.stderr


@pytest.mark.parametrize("arguments", [[], ["rules"], ["export"]])
def test_no_verb_shows_the_help(workspace: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]):
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    assert "Usage: nnrules" in out + err
