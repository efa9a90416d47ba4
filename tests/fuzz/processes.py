"""A case of the slow tier is a process: forked from one that has imported everything, or a fresh interpreter."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from watch import record

LONGEST = 60.0
"""Seconds a case may take."""

MOST_MEMORY = 2 * 2**30
"""Bytes a case may hold at its peak, libraries included."""

_ADDRESSES = 4 * 2**30  # bytes of address space beyond what is in use before: stops the worst before it hurts
_LARGEST_FILE = 2**30
_COMMAND = "from clip_antidote.cli.app import main; main()"
_SITE = Path(__file__).parent / "site"


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Its exit status, negative for the number of a signal.
        seconds: How long it ran.
        memory: Its peak in bytes, with libraries; a forked one without those pages of them it never touched.
        out: What it printed.
        err: What it printed on standard error.
        events: What it did that it must not do, a line each; see `watch`.
    """

    status: int
    seconds: float
    memory: int
    out: str
    err: str
    events: tuple[str, ...]


def run_case(arguments: list[str], home: Path, work: Path, *, fresh: bool = False, limit: float = LONGEST) -> Ended:
    """Runs `clip-antidote` as a process of its own.

    Args:
        arguments: Its arguments.
        home: The only folder it may write to; gets `stdout`, `stderr` and `events`.
        work: Its current folder.
        fresh: Whether it is a fresh interpreter, and not forked from this one.
        limit: Seconds after which it is killed.
    """
    for name in ("stdout", "stderr", "events"):
        (home / name).write_bytes(b"")
    (home / "tmp").mkdir(exist_ok=True)
    start = time.monotonic()
    process = _start_fresh(arguments, home, work) if fresh else _fork(lambda: _become(arguments, home, work))
    status, memory = _wait(process, start + limit)
    seconds = time.monotonic() - start
    out, err, events = ((home / n).read_text(errors="backslashreplace") for n in ("stdout", "stderr", "events"))
    return Ended(status, seconds, memory, out, err, tuple(events.splitlines()))


def _fork(child: Callable[[], NoReturn]) -> int:
    process = os.fork()
    if process == 0:
        try:
            child()
        finally:
            os._exit(70)  # whatever happens, a child never goes on as its parent
    return process


def _wait(process: int, deadline: float) -> tuple[int, int]:
    """Exit status and peak memory in bytes; the whole group is killed at the deadline, and at the end."""
    pause = 0.001
    while True:
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)  # what it may have started
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def _surroundings(home: Path) -> dict[str, str]:
    own = dict.fromkeys(("TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"), str(home / "tmp"))
    return {"HOME": str(home), "COLUMNS": "100", **own}


def _become(arguments: list[str], home: Path, work: Path) -> NoReturn:
    """What a forked child does: limits, the case's own folders, the command, its status."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)  # threads of OpenMP do not live on in a fork: waiting for them would never end
    _limit(addresses=True)
    os.chdir(work)
    os.environ.update(_surroundings(home))
    tempfile.tempdir = str(home / "tmp")
    for number, name in ((0, os.devnull), (1, home / "stdout"), (2, home / "stderr")):
        file = os.open(name, os.O_RDWR)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv = ["clip-antidote", *arguments]
    record(home, os.open(home / "events", os.O_WRONLY | os.O_APPEND))
    status = 1
    try:
        from clip_antidote.cli.app import main

        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = 120  # as the interpreter does
    os._exit(status)


def _start_fresh(arguments: list[str], home: Path, work: Path) -> int:
    paths = os.pathsep.join([str(_SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
    watched = {"FUZZ_HOME": str(home), "FUZZ_EVENTS": str(home / "events"), "PYTHONPATH": paths}
    with (home / "stdout").open("wb") as out, (home / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments],
            cwd=work,
            env={**os.environ, **_surroundings(home), **watched},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=_limit,
        )
    process.returncode = 0  # it is waited for by its number
    return process.pid


def _limit(*, addresses: bool = False) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    if addresses:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
