"""All parts of the fuzz suite, one after the other, whatever comes of each: what `make fuzz` runs.

    python tests/fuzz/everything.py [--times N] [--cases N] [--kills N]

Ends with a line for each part and one for all; with status 1 where a part found something or did not get to its end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """A part of the suite.

    Attributes:
        name: What it is called.
        command: Runs it; its last line sums it up, and its status is 0 where nothing was found.
        settings: Environment variables for it.
    """

    name: str
    command: Sequence[str]
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a part: its exit status, negative for a signal, its last line, and how long it took."""

    name: str
    status: int
    said: str
    seconds: float


def run_part(part: Part) -> Outcome:
    """Runs a part and passes on what it prints, line by line."""
    print(f"== {part.name}: {' '.join(part.command[1:])}", flush=True)
    began, last = time.monotonic(), ""
    environment = {**os.environ, **part.settings, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        part.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        encoding="utf-8",
        errors="backslashreplace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return Outcome(part.name, process.returncode, last, time.monotonic() - began)


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line for each part, and one for all."""
    lines = []
    for one in outcomes:
        verdict = "passed" if one.status == 0 else "FAILED"
        if one.status < 0:
            verdict += f" (ended by {signal.Signals(-one.status).name})"
        lines.append(f"{one.name}: {verdict} in {one.seconds / 60:.1f} min: {one.said or 'it said nothing'}")
    failed = [one.name for one in outcomes if one.status != 0]
    parts = f"{len(failed)} of {len(outcomes)} parts FAILED ({', '.join(failed)})"
    lines.append(f"fuzz: {parts if failed else f'all {len(outcomes)} parts passed'}")
    return "\n".join(lines)


def all_parts(times: int, cases: int, kills: int) -> list[Part]:
    """The parts, the fast one first; see `make_parser` for the numbers."""
    python, fast = sys.executable, {"FUZZ_TIMES": str(times)}
    pytest = [python, "-m", "pytest", str(HERE), "--durations=0", "--durations-min=60"]
    return [
        Part("readers", pytest, fast),
        Part("processes", [python, str(HERE / "slow.py"), "--cases", str(cases)]),
        Part("kills", [python, str(HERE / "kill.py"), "--times", str(kills)], {"OMP_NUM_THREADS": "1"}),
    ]


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how many times the cases of `make test`")
    parser.add_argument("--cases", type=int, default=1360, help="how many processes of the command line")
    parser.add_argument("--kills", type=int, default=20, help="how many runs of each command are killed")
    return parser


def main() -> None:
    """Runs all parts and prints the summary."""
    options = make_parser().parse_args()
    outcomes = [run_part(part) for part in all_parts(options.times, options.cases, options.kills)]
    print("==\n" + summary(outcomes), flush=True)
    sys.exit(any(outcome.status for outcome in outcomes))


if __name__ == "__main__":
    main()
