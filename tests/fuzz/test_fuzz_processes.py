"""The slow tier sees what it is there to see: commands that run programs, connect, crash, lose files or take all."""

from __future__ import annotations

import mmap
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from base import Base
from cases import Case
from processes import Ended, run_case
from slow import contents, judge


def misbehave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[], object]) -> dict[str, str]:
    """Runs `command` as if it were the command line, and returns the faults that are found."""
    work = tmp_path / "case" / "work"
    work.mkdir(parents=True)
    (work / "thesis.txt").write_text("years of work")
    monkeypatch.setattr("clip_antidote.cli.app.main", command)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    monkeypatch.setattr("slow.MOST_MEMORY", held + 2**26)
    before = {f"work/{name}": what for name, what in contents(work).items()}
    ended = run_case([], tmp_path / "case", work, limit=20)
    after = {f"work/{name}": what for name, what in contents(work).items()}
    case = Case(random.Random(0), Base(tmp_path), tmp_path / "in", work, tmp_path / "case" / "canary")
    return judge(ended, case, before, after)


def fail(status: int, text: str = "") -> None:
    sys.stderr.write(text)
    sys.exit(status)


def write_outside() -> None:
    Path("../../outside").write_text("x")


def take_memory() -> None:
    pages = mmap.mmap(-1, 2**30)
    pages[:: mmap.PAGESIZE] = b"x" * (2**30 // mmap.PAGESIZE)


COMMANDS: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: None, ""),
    "a sentence": (lambda: fail(2, "error: a sentence\n"), ""),
    "a program": (lambda: subprocess.run(["true"], check=False), "executions"),
    "a shell": (lambda: os.system("true"), "executions"),
    "the canary": (lambda: Path("../canary").touch(), "executions"),
    "a connection": (lambda: socket.create_connection(("127.0.0.1", 9)), "connections"),
    "a crash": (lambda: 1 / 0, "tracebacks"),
    "a lost file": (lambda: Path("thesis.txt").unlink(), "lost files"),
    "a changed file": (lambda: Path("thesis.txt").write_text("x"), "lost files"),
    "a write elsewhere": (write_outside, "others"),
    "another status": (lambda: fail(5, "error: x\n"), "others"),
    "no sentence": (lambda: fail(2), "others"),
    "a signal": (lambda: os.kill(os.getpid(), 9), "others"),
    "litter": (lambda: Path(".out.1.tmp").touch(), "others"),
    "memory": (take_memory, "others"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_faults_are_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, fault = COMMANDS[name]
    found = misbehave(tmp_path, monkeypatch, command)
    assert (fault in found) if fault else not found, found


def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_antidote.cli.app.main", lambda: time.sleep(600))
    ended = run_case([], tmp_path, tmp_path, limit=0.2)
    assert ended.status == -9
    assert ended.seconds >= 0.2


def test_a_fresh_interpreter_is_watched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processes._COMMAND", "import os; os.system('true'); raise SystemExit(3)")
    ended: Ended = run_case([], tmp_path, tmp_path, fresh=True)
    assert ended.status == 3
    assert any("os.system" in event for event in ended.events)
