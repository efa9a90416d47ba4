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

from clip_antidote.errors import ClipAntidoteError

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""Multiplies the number of cases; `make fuzz` sets it."""

_MOST_MEMORY = 600 * 2**10  # KiB that one case may add to the peak
_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_watched: Path | None = None
_seen: list[str] = []


class Escape(BaseException):
    """Not an Exception, so that no reader takes it for a broken file."""


def _outside(path: Any, folder: int = -1) -> bool:
    """Whether a path, relative to an open folder where there is one, lies elsewhere than below the watched one."""
    if isinstance(path, int) or path is None or _watched is None:
        return False
    place = os.fsdecode(path)
    if folder >= 0:
        place = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), place)
    place = os.path.abspath(place)
    inside = place == str(_watched) or place.startswith((f"{_watched}{os.sep}", "/dev/", "/proc/"))
    return not inside and "__pycache__" not in place


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    bad = event.startswith(_FORBIDDEN) or event in _NETWORK
    if event == "ctypes.dlopen":
        bad = arguments[0] is not None  # None is the process itself
    elif event == "open":
        path, mode, flags = arguments
        written = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
        bad = written and _outside(path)
    elif event in _CHANGES:
        folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
        bad = any(_outside(path, folder) for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike))
    if bad:
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
