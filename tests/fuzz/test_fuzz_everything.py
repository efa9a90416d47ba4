"""What `make fuzz` says at its end: every part runs, and a part that failed is seen."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import everything
import pytest
from everything import Part


def python(name: str, code: str) -> Part:
    return Part(name, [sys.executable, "-c", code], {"FUZZ_TIMES": "7"})


GOOD = python("good", "import os; print('first'); print(os.environ['FUZZ_TIMES'], 'cases: 0 faults')")
BAD = python("bad", "import sys; print('9 cases: 1 fault'); print(); sys.exit(1)")
KILLED = python("killed", "import os; os.kill(os.getpid(), 9)")


def run(parts: list[Part], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    monkeypatch.setattr(everything, "all_parts", lambda *numbers: parts)
    monkeypatch.setattr(sys, "argv", ["everything.py"])
    with pytest.raises(SystemExit) as ended:
        everything.main()
    return ended.value.code


def test_parts_run_whatever_came_of_those_before(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([BAD, KILLED, GOOD], monkeypatch) == 1
    lines = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"bad: FAILED in 0\.\d min: 9 cases: 1 fault", lines[-4])
    assert re.fullmatch(r"killed: FAILED \(ended by SIGKILL\) in 0\.\d min: it said nothing", lines[-3])
    assert re.fullmatch(r"good: passed in 0\.\d min: 7 cases: 0 faults", lines[-2])
    assert lines[-1] == "fuzz: 2 of 3 parts FAILED (bad, killed)"
    assert "first" in lines, "what a part prints is passed on"


def test_nothing_found_is_status_0(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([GOOD, GOOD], monkeypatch) == 0
    assert capfd.readouterr().out.endswith("\nfuzz: all 2 parts passed\n")


def test_the_make_target_runs_these_parts() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    given = re.search(r"fuzz/everything\.py (.*)", makefile)
    assert given is not None
    words = re.sub(r"\$\(or \$\((\w+)\),(\d+)\)", r"\2", given[1]).split()
    options = everything.make_parser().parse_args(words)
    assert (options.times, options.cases, options.kills) == (5, 1360, 20)
    parts = everything.all_parts(options.times, options.cases, options.kills)
    assert [part.name for part in parts] == ["readers", "processes", "kills"]
    assert all(Path(part.command[1]).is_file() for part in parts[1:])
