"""The command line: one function a verb, no logic.

Exit codes: 0 done, 1 a difference or a failed test, 2 an error that the user can put right.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import sys

import typer

from nnrules.cli.extensions import mount_extensions
from nnrules.cli.rules import rules_app
from nnrules.cli.verbs import app
from nnrules.errors import NnrulesError, Problem, UsageError

__all__ = ["app", "main", "run"]

app.add_typer(rules_app, name="rules")


def run(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after ``nnrules``; default: those of the process.

    Returns:
        The exit code.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    mount_extensions(app, sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="nnrules", standalone_mode=False)
    except NnrulesError as error:
        _report(error, arguments)
        return 2
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        typer.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # whoever reads the output has seen enough
        _discard_output()
        return 0
    except OSError as error:
        where, what = str(error.filename or "nnrules"), "a file or the output cannot be read or written"
        fix = "Check permissions and free space."
        _report(
            UsageError(Problem(where=where, what=what, got=error.strerror or str(error), fix=fix)), arguments
        )
        _discard_output()
        return 2
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return 130
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error), err=True)
            return 2
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            context = getattr(error, "ctx", None)
            where = context.command_path if context is not None else "nnrules"
            what = error.format_message().rstrip(".?")
            _report(
                UsageError(Problem(where=where, what=what, fix=f"`{where} --help` lists what it takes.")),
                arguments,
            )
            return 2
        raise
    return int(result) if isinstance(result, int) else 0


def _report(error: NnrulesError, arguments: list[str] | None) -> None:
    """Every problem on standard error; as JSON when the verb was asked for JSON."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--json" in given:
        typer.echo(
            json.dumps(
                {"errors": [problem.to_json() for problem in error.problems]}, ensure_ascii=False, indent=1
            ),
            err=True,
        )
        return
    for problem in error.problems:
        typer.echo(str(problem), err=True)
    if len(error.problems) > 1:
        typer.echo(f"{len(error.problems)} problems", err=True)


def _discard_output() -> None:
    """Forget what standard output could not take, so that Python does not try again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of the command ``nnrules``."""
    # What a command imports and compiles stays until it ends: looking for garbage in it costs 30 ms and finds none.
    gc.set_threshold(100_000, 50, 50)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # JSON is UTF-8, and tables use signs that older encodings lack.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(run())


if __name__ == "__main__":
    main()
