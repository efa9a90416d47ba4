"""What a reader must never do, whatever it reads: run programs, connect, write elsewhere, take all memory."""

from __future__ import annotations

import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from watch import breach

from clip_antidote.errors import ClipAntidoteError

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""Multiplies the number of cases; `make fuzz` sets it."""

_MOST_MEMORY = 600 * 2**10  # KiB that one case may add to the peak
_watched: Path | None = None
_seen: list[str] = []


class Escape(BaseException):
    """Not an Exception, so that no reader takes it for a broken file."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    library = event == "ctypes.dlopen" and arguments[0] is not None  # None is the process itself
    if library or breach(event, arguments, _watched) is not None:
        _seen.append(f"{event} {arguments!r:.200}")
        raise Escape(_seen[-1])


sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Forbids everything but reading, and writing below `folder`."""
    global _watched
    _seen.clear()
    _watched = folder
    try:
        yield
    finally:
        _watched = None
    assert not _seen, _seen


def outcome(read: Callable[[], object], folder: Path) -> tuple[bool, str | None]:
    """Whether a reader took what it was given, and what is wrong with how it ended."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken, wrong = False, None
    try:
        with watched(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        taken = True
    except ClipAntidoteError as error:
        text = str(error)
        if not text or len(text) > 2000 or not text.isprintable():
            wrong = f"not one short line: {text!r:.300}"
    except (Exception, Escape) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "clip_antidote" in frame.filename] or frames
        wrong = (
            f"{type(error).__name__}: {error!s:.200} at {own[-1].filename}:{own[-1].lineno}, in {frames[-1].filename}"
        )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return taken, wrong or (f"took {grown // 1024} MiB" if grown > _MOST_MEMORY else None)


def fuzz(count: int, folder: Path, make: Callable[[Random, Path], Callable[[], object]]) -> None:
    """Runs `count` cases (times FUZZ_TIMES), each with its own seed and folder, and reports the seeds that failed.

    Args:
        count: Number of cases.
        folder: Where the cases may write.
        make: Prepares a case from its generator and its empty folder, and returns what reads it.
    """
    failed, taken = [], 0
    for seed in range(count * TIMES):
        place = folder / str(seed)
        place.mkdir(parents=True)
        good, wrong = outcome(make(Random(seed), place), place)
        taken += good
        if wrong is not None:
            failed.append(f"seed {seed}: {wrong}")
    print(f"{count * TIMES} cases: {taken} taken, {count * TIMES - taken} not")
    assert not failed, "\n".join(["", f"{len(failed)} of {count * TIMES} cases", *failed[:40]])
    assert taken, "mutations so strong that nothing is ever read test little"
