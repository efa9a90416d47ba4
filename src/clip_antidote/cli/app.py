"""The command `clip-antidote`: registers the sub-commands and turns errors into exit statuses."""

from __future__ import annotations

import sys

import typer

from clip_antidote.cli import attack, benchmark, data, demo, evaluate, export, ls, purify, train, train_stego
from clip_antidote.cli.common import progress_console
from clip_antidote.errors import ClipAntidoteError
from clip_antidote.progress import show_progress
from clip_antidote.runtime import keep_freed_memory

USAGE, INTERRUPTED = 4, 130
STOPPED = "interrupted; nothing half written was left, the same command starts again where it can"

app = typer.Typer(
    help="Purify a backdoored CLIP into a zero-shot classifier you can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo")(demo.command)
app.command("purify")(purify.command)
app.command("evaluate")(evaluate.command)
app.command("export")(export.command)
app.command("attack")(attack.command)
app.command("ls")(ls.command)
app.add_typer(data.app, name="data")
app.add_typer(benchmark.app, name="benchmark")
app.command("train")(train.command)
app.command("train-stego")(train_stego.command)


def main() -> None:
    """Entry point: exit status 0 done, 2 error, 3 unsupported, 4 usage, 130 interrupted."""
    keep_freed_memory()
    try:
        with show_progress(progress_console):
            status = app(standalone_mode=False)
    except ClipAntidoteError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail(STOPPED, INTERRUPTED)
    except Exception as error:
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


def _fail(sentence: str, status: int) -> None:
    progress_console.print(f"[red]error:[/red] {sentence}", highlight=False, soft_wrap=True)
    sys.exit(status)
