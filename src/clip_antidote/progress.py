"""Progress bars with rate and time left; silent until a program switches them on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from clip_antidote.plain import plain

T = TypeVar("T")
_console: ContextVar[Console | None] = ContextVar("console", default=None)


class _RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def show_progress(console: Console) -> Iterator[None]:
    """Shows the bars of everything inside the block on `console`."""
    token = _console.set(console)
    try:
        yield
    finally:
        _console.reset(token)


@contextmanager
def hide_progress() -> Iterator[None]:
    """Shows no bars inside the block."""
    token = _console.set(None)
    try:
        yield
    finally:
        _console.reset(token)


def tell(sentence: str) -> None:
    """Says a sentence beside the bars; where bars are switched off, as a warning."""
    console = _console.get()
    if console is None:
        warnings.warn(sentence, stacklevel=2)
    else:
        console.print(Text.assemble(("note:", "yellow"), f" {plain(sentence)}"), soft_wrap=True)


def mention(sentence: str) -> None:
    """Says beside the bars what is no warning; nothing where bars are switched off."""
    console = _console.get()
    if console is not None:
        console.print(Text(plain(sentence)), soft_wrap=True)


def track(steps: Iterable[T], description: str, *, total: int, done: int = 0) -> Iterator[T]:
    """Iterates over `steps` and shows a bar where bars are switched on and there is anything to do.

    Args:
        steps: What to iterate over.
        description: Label of the bar.
        total: Number of steps of the whole work.
        done: How many of them an interrupted run did before.
    """
    console, description = _console.get(), plain(description)
    if console is None or total == 0:
        yield from steps
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, completed=done)
        for step in steps:
            yield step
            bar.advance(task)
    if not console.is_terminal:
        console.print(f"{description}: {total} steps done", markup=False, emoji=False)
