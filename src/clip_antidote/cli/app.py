"""The command `clip-antidote`: registers the sub-commands and turns errors into exit statuses."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.main import get_command

from clip_antidote.cli import (
    attack,
    benchmark,
    data,
    defend,
    demo,
    evaluate,
    export,
    inspect,
    ls,
    purify,
    scan,
    serve,
    train,
    train_stego,
)
from clip_antidote.cli.common import progress_console, say
from clip_antidote.errors import ClipAntidoteError
from clip_antidote.files import storage_failure
from clip_antidote.progress import show_progress
from clip_antidote.runtime import keep_freed_memory

FAILED, USAGE, INTERRUPTED = 2, 4, 130
STOPPED = "interrupted; nothing half written was left, the same command starts again where it can"
FULL = "the GPU has too little memory left; close what else uses it, or compute elsewhere with --device cpu"
CLOSED = "standard output was closed before everything was printed; files that were written are whole"

app = typer.Typer(
    help="Purify a backdoored CLIP into a zero-shot classifier you can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"clip-antidote {metadata.version('clip-antidote')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
]


@app.callback()
def options(version: Version = False) -> None:
    """Purify a backdoored CLIP into a zero-shot classifier you can trust."""


app.command("demo")(demo.command)
app.command("purify")(purify.command)
app.command("inspect")(inspect.command)
app.command("defend")(defend.command)
app.command("scan")(scan.command)
app.command("evaluate")(evaluate.command)
app.command("export")(export.command)
app.command("serve")(serve.command)
app.command("attack")(attack.command)
app.command("ls")(ls.command)
app.add_typer(data.app, name="data")
app.add_typer(benchmark.app, name="benchmark")
app.command("train")(train.command)
app.command("train-stego")(train_stego.command)


@cache
def _commands() -> Any:
    """The tree of commands: reading all their signatures takes longer than many a call of `main` in one process."""
    return get_command(app)


def main() -> None:
    """Entry point: exit status 0 done, 1 something found, 2 error, 3 unsupported, 4 usage, 130 interrupted."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what no encoding can write
    try:
        with show_progress(progress_console):
            status = _commands()(standalone_mode=False)
        sys.stdout.flush()
    except ClipAntidoteError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail(STOPPED, INTERRUPTED)
    except SystemExit:  # typer and rich leave so where nobody reads what they print
        _discard_output()
        _fail(CLOSED, FAILED)
    except OSError as error:
        closed = isinstance(error, BrokenPipeError)
        _discard_output()
        _fail(CLOSED if closed else storage_failure(error), FAILED)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            _fail(FULL, FAILED)
        # Wrong options: the parser's own errors carry the sentence and are told by their interface,
        # since typer may bring its own copy of the parsing library.
        if type(error).__name__ == "Abort":
            _fail(STOPPED, INTERRUPTED)
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), USAGE)
    if status == INTERRUPTED:
        _fail(STOPPED, INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _discard_output() -> None:
    """Keeps the interpreter from another try to print, at its end, what could not be printed."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _fail(sentence: str, status: int) -> None:
    with suppress(OSError, SystemExit):  # where nobody reads it, the status says it too
        say(("error:", "red"), f" {sentence}", to=progress_console)
    sys.exit(status)
