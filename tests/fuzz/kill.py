"""Kill -9 at random moments: afterwards the same command ends with the same result as undisturbed.

    python tests/fuzz/kill.py [--times N] [--seed S] [COMMAND ...]

For each command an undisturbed run comes first. Then, N times, a process that runs the command is killed at a moment
drawn from the whole of its run, each in a stretch of its own, and the last stretches in the writing of the result.
Every time it is started again, killed again half of the times, and at last left to end. Ends with status 1 where a
result is another one, a second run is hindered, or something half written is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # the fixtures of the tests

import torch
import yaml

from clip_antidote.cli.app import main as command
from clip_antidote.jobs.defend import WENT_ON
from clip_antidote.models.build import build_open_clip, save_open_clip
from conftest import SMALL, draw_photos

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "runs" / "fuzz" / "kills"
"""Where the folders of runs stay that ended otherwise than the undisturbed one."""

TIMES = {"seconds", "created", "date", "stages", "versions", "peak_memory"}
"""Entries of records that tell when, how fast and at what cost; they differ between two undisturbed runs too."""

WRITING = 0.3
"""Share of the moments that lie in the writing: after the first change to the result's place."""

CLASSES = ("cat", "dog", "sea_horse", "bird")
TRAINING = {"batch_size": 16, "precision": "fp32", "checkpoint_every": 10}
SETTINGS: dict[str, Any] = {
    "attack": {"implant_asr": 0.0, "implant_ca_drop": 1.0, "training": {**TRAINING, "steps": 150}},
    "train": {"store_size": 36, "training": {**TRAINING, "steps": 150}},
    "purify": {
        "inversion": {"survey": {"steps": 100}, "final_steps": 200, "batch_size": 8},
        "precision": "fp32",
        "tuning": {"steps": 100},
    },
    "defend": {"teacher_steps": 60, "steps": 100, "batch_size": 8},
    "defenses": {
        "inversion": {"survey": {"steps": 20}, "final_steps": 40, "batch_size": 8},
        "precision": "fp32",
        "tuning": {"steps": 20},
    },
}
GRID: dict[str, Any] = {
    "shots": 4,
    "seeds": [0, 1],
    "suspects": [{"attack": "badnet", "target": "cat", "settings": {"training": {"steps": 2, "batch_size": 8}}}],
    "defenses": ["cbpt", "oracle"],
}
COMMANDS = {
    "attack": ["attack", "local-dir:model", "--data", "problem", "--target", "dog", "--config", "attack.yaml"],
    "purify": ["purify", "local-dir:model", "--data", "problem", "--shots", "4", "--config", "purify.yaml"],
    "train": [
        "train",
        "--architecture",
        "model/open_clip_config.json",
        "--data",
        "problem",
        "--config",
        "train.yaml",
    ],
    "defend": ["defend", "local-dir:model", "--defense", "nad", "--data", "problem", "--config", "defend.yaml"],
    "benchmark": ["benchmark", "run", "grid.yaml", "--data", "problem", "--config", "defenses.yaml"],
}
Wish = Callable[[float, Path], bool]
"""Whether to kill now, from the seconds since the start and the folder of the run."""


def prepare(folder: Path) -> None:
    """Makes model, images, settings and the poisoned model of the grid in an empty folder."""
    torch.manual_seed(0)
    (folder / "model").mkdir()
    save_open_clip(build_open_clip(SMALL).eval(), None, folder / "model")
    for split, count in (("train", 16), ("test", 6)):
        draw_photos(folder / "problem" / split, classes=CLASSES, count=count)
    for name, values in SETTINGS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    (folder / "grid.yaml").write_text(yaml.safe_dump({**GRID, "model": "local-dir:model"}))
    status, _ = start(["benchmark", "prepare", "grid.yaml", "--data", "problem", "--out", "zoo"], folder)
    assert status == 0


def start(arguments: list[str], folder: Path, wish: Wish = lambda seconds, folder: False) -> tuple[int, float]:
    """Runs a command in a forked process, and kills it when it is wished; returns its exit status and seconds."""
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        with suppress(BaseException):
            _become(arguments, folder)
        os._exit(1)
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), time.monotonic() - began
        if wish(time.monotonic() - began, folder):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.0005)


def _become(arguments: list[str], folder: Path) -> None:
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    sys.argv = ["clip-antidote", *arguments]
    try:
        command()
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else 1)


def result(folder: Path) -> dict[str, Any]:
    """What a run left beside its inputs, but for times: contents by name."""
    found: dict[str, Any] = {}
    inputs = {"model", "problem", "log", "zoo", *(p.name for p in folder.glob("*.yaml"))}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.relative_to(folder).parts[0] not in inputs:
            found[name] = _content(path)
        elif path.is_dir() and name.startswith("."):
            found[name] = "folder"
    for name in [name for name in found if name.startswith("out/zoo/")]:
        del found[name]
    return found


def _content(path: Path) -> Any:
    if path.name == ".clip-antidote.json":  # holds sizes of files with times in them
        return sorted(json.loads(path.read_text())["files"])
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix in {".html", ".md"}:
        return re.sub(r"\d+(\.\d+)? (s|seconds|min)\b|\d{4}-\d\d-\d\dT[\d:+]+", "TIME", path.read_text())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [_timeless(inner) for inner in value if inner != WENT_ON] if isinstance(value, list) else value


def _writing(folder: Path) -> bool:
    """Whether a run has begun to write: the temporary folder of its result is there, or the log of a grid's runs."""
    return (folder / "out" / "runs.jsonl").exists() or any(True for _ in folder.glob(".out.*.tmp"))


def wishes(seconds: float, times: int, draw: random.Random) -> list[Wish]:
    """Moments to kill at: most in equal stretches of the run, the others a little after it began to write."""

    def at(moment: float) -> Wish:
        return lambda now, folder: now > moment

    def while_writing(delay: float) -> Wish:
        since = [0.0]

        def wish(now: float, folder: Path) -> bool:
            if not since[0] and _writing(folder):
                since[0] = now
            return bool(since[0]) and now > since[0] + delay

        return wish

    late = round(WRITING * times)
    stretches = [at(seconds * (i + draw.random()) / (times - late)) for i in range(times - late)]
    return stretches + [while_writing(draw.random() * draw.choice([0.0, 0.003, 0.03, 0.3])) for _ in range(late)]


def disturb(name: str, template: Path, home: Path, times: int, draw: random.Random) -> list[str]:
    """Kills a command at so many moments and tells what went wrong."""
    arguments = [*COMMANDS[name], "--out", "out"]

    def fresh(place: str) -> Path:
        folder = Path(shutil.copytree(template, home / name / place))
        if name == "benchmark":
            shutil.copytree(template / "zoo", folder / "out")
        return folder

    first = fresh("undisturbed")
    status, seconds = start(arguments, first)
    wanted = result(first)
    if status != 0:
        return [f"{name}: the undisturbed run ended with {status}: {(first / 'log').read_text()[-500:]}"]
    faults, killed = [], 0
    for number, wish in enumerate(wishes(seconds, times, draw)):
        folder = fresh(str(number))
        ends = [start(arguments, folder, wish)[0]]
        if draw.random() < 0.5:
            moment = draw.random() * seconds
            ends.append(start(arguments, folder, lambda now, _, moment=moment: now > moment)[0])  # type: ignore[misc]
        killed += ends.count(-signal.SIGKILL)
        left = [p.name for p in folder.iterdir() if p.name.startswith(".")]
        ends.append(start(arguments, folder)[0])
        got = result(folder)
        if ends[-1] != 0 or got != wanted:
            other = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
            said = (folder / "log").read_text()[-300:]
            faults.append(f"{name}, kill {number}: ended {ends}, after {left}: differs in {other}: {said!r}")
            shutil.rmtree(KEPT / f"{name}-{number}", ignore_errors=True)
            shutil.copytree(folder, KEPT / f"{name}-{number}", symlinks=True)
        shutil.rmtree(folder)
    print(
        f"{name}: {times} disturbed runs, {killed} kills in a run of {seconds:.1f} s, {len(faults)} faults",
        flush=True,
    )
    return faults


def main() -> None:
    """Disturbs the commands and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help=", ".join(COMMANDS))
    parser.add_argument("--times", type=int, default=20, help="how many runs of each command are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faults = []
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        template = Path(name) / "template"
        template.mkdir()
        prepare(template)
        for one in options.commands:
            faults += disturb(one, template, Path(name), options.times, random.Random(f"{options.seed} {one}"))
    for fault in faults:
        print(fault)
    runs, kept = options.times * len(options.commands), f", kept in {KEPT.relative_to(ROOT)}" if faults else ""
    print(f"{runs} disturbed runs of {', '.join(options.commands)}: {len(faults)} faults{kept}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
