"""The slow tier: real processes of the command line on broken and hostile inputs, each with limits.

    python tests/fuzz/slow.py [--cases N] [--seed S] [--jobs J]

A case that fails stays under runs/fuzz/, with the command that repeats it. Ends with status 1 where one does.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shlex
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # the fixtures of the tests

import hostile_data
import hostile_models
from base import Base, make_base, make_transformers
from cases import Case, Kind
from processes import LONGEST, MOST_MEMORY, Ended, run_case

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "runs" / "fuzz"
FRESH = 40
"""Of so many cases one runs in a fresh interpreter; the others are forked from one that has imported everything."""

KINDS: dict[str, Kind] = {**hostile_models.KINDS, **hostile_data.KINDS}
STATUSES = (0, 2, 3, 4)
IMPORTED = (
    "typer",
    "matplotlib.pyplot",
    "torch.onnx",
    "onnxscript",
    "open_clip",
    "torchvision",
    "jinja2",
    "rich.markdown",
)
FIELDS = ("executions", "connections", "tracebacks", "lost files")


@dataclass
class Verdict:
    """What came of a case: faults by their field of the summary ("others" where they have none)."""

    seed: int
    kind: str
    status: int
    seconds: float
    memory: int
    faults: dict[str, str] = field(default_factory=dict)
    command: str = ""


def contents(folder: Path) -> dict[str, str]:
    """What lies in a folder, by relative name: kind, and of files their hash."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            if path.is_symlink():
                found[str(path.relative_to(folder))] = f"link to {os.readlink(path)}"
            elif path.is_file():
                small = path.stat().st_size < 2**28
                data = path.read_bytes() if small else str(path.stat().st_size).encode()
                found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
            elif path.is_fifo():
                found[str(path.relative_to(folder))] = "pipe"
    return found


def judge(ended: Ended, case: Case, before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """What is wrong with how a case ended.

    Args:
        ended: How.
        case: The case.
        before: The contents of inputs and current folder before it.
        after: And after it.
    """
    faults: dict[str, str] = {}
    for event in ended.events:
        name = {"execution": "executions", "connection": "connections"}.get(event.partition(":")[0], "others")
        faults.setdefault(name, event)
    if case.canary.exists():
        faults["executions"] = "the canary is there"
    if "Traceback" in ended.err or "Traceback" in ended.out:
        faults["tracebacks"] = ended.err.strip().splitlines()[-1][:300]
    replaced = case.replaced if ended.status == 0 else set()
    kept = {name: what for name, what in before.items() if not _below(name, case.changing | replaced)}
    lost = [name for name, what in kept.items() if after.get(name) != what]
    if lost:
        faults["lost files"] = ", ".join(lost[:5])
    litter = [name for name in after.keys() - before.keys() if name.endswith((".tmp", ".old", ".probe", ".lock"))]
    said = ended.err.count("error:")
    wrong = [
        (ended.status not in (*STATUSES, *[1] * case.finding), f"exit status {ended.status}"),
        (
            ended.status > 0 and not (case.finding and ended.status == 1) and said != 1,
            f"{said} sentences for status {ended.status}",
        ),
        ("\x1b" in ended.err + ended.out, "an escape sequence was printed"),
        (bool(litter), f"temporary files are left: {litter[:3]}"),
        (ended.memory > MOST_MEMORY, f"took {ended.memory / 2**30:.2f} GiB"),
        (ended.seconds > LONGEST, f"took {ended.seconds:.0f} s"),
    ]
    for holds, sentence in wrong:
        if holds and "tracebacks" not in faults:
            faults.setdefault("others", sentence)
    return faults


def _below(name: str, folders: Iterable[str]) -> bool:
    return any(name == f"work/{folder}" or name.startswith(f"work/{folder}/") for folder in folders)


def try_case(seed: int, base: Base, place: Path) -> Verdict:
    """Makes the case of a seed in an empty folder, runs it and judges it."""
    draw = random.Random(seed)
    name = sorted(KINDS)[seed % len(KINDS)]
    case = Case(draw, base, place / "in", place / "work", place / "canary")
    for folder in (case.inputs, case.work / "notes"):
        folder.mkdir(parents=True)
    (case.work / "thesis.txt").write_text("years of work")
    (case.work / "notes" / "photo.jpg").write_bytes(b"a photograph")
    # What no system could hand to a program, such as half a character, becomes bytes that it can.
    arguments = [os.fsdecode(word.encode("utf-8", "surrogatepass")) for word in KINDS[name](case)]
    before = {f"{part}/{key}": what for part in ("in", "work") for key, what in contents(place / part).items()}
    ended = run_case(arguments, place, case.work, fresh=seed % FRESH == FRESH - 1)
    after = {f"{part}/{key}": what for part in ("in", "work") for key, what in contents(place / part).items()}
    verdict = Verdict(seed, name, ended.status, ended.seconds, ended.memory, judge(ended, case, before, after))
    verdict.command = shlex.join(["clip-antidote", *arguments])
    return verdict


def run_seed(seed: int, base: Base, cases: Path, keep: bool) -> Verdict:
    """Tries a case and keeps its folder where it failed."""
    place = cases / str(seed)
    place.mkdir(parents=True)
    verdict = try_case(seed, base, place)
    if verdict.faults or keep:
        kept = KEPT / str(seed)
        shutil.rmtree(kept, ignore_errors=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        _keep(place, kept)
        repeat = f"python tests/fuzz/slow.py --seed {seed} --cases 1 --keep"
        lines = [f"# {verdict.kind}: {verdict.faults}", f"# ran: {verdict.command}", repeat]
        (kept / "repeat.sh").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
    shutil.rmtree(place, ignore_errors=True)
    return verdict


def _keep(place: Path, kept: Path) -> None:
    """Copies what a case left; pipes and files without end stay behind."""

    def unfit(folder: str, names: list[str]) -> list[str]:
        paths = [Path(folder) / name for name in names]
        return [
            path.name
            for path in paths
            if not path.is_symlink() and not path.is_dir() and (not path.is_file() or path.stat().st_size > 2**24)
        ]

    shutil.copytree(place, kept, symlinks=True, ignore=unfit)


_base: Base | None = None


def _work(task: tuple[int, str, bool]) -> Verdict:
    seed, cases, keep = task
    assert _base is not None
    try:
        return run_seed(seed, _base, Path(cases), keep)
    except Exception as error:
        fault = f"the case itself failed: {type(error).__name__}: {error}"
        return Verdict(seed, sorted(KINDS)[seed % len(KINDS)], -1, 0.0, 0, {"others": fault})


def _import_everything() -> None:
    """So that a case need not, and what libraries do on import is not taken for a case's doing."""
    import importlib

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of libraries among themselves
    for name in IMPORTED:
        importlib.import_module(name)
    package = ROOT / "src" / "clip_antidote"
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        try:
            importlib.import_module(module)
        except ImportError:  # of an extra that is not installed
            continue


def summary(verdicts: list[Verdict]) -> str:
    """The line at the end."""
    counts = Counter(name for verdict in verdicts for name in verdict.faults)
    parts = [f"{counts[name]} {name}" for name in (*FIELDS, "others")]
    memory = max(verdict.memory for verdict in verdicts) / 2**30
    seconds = max(verdict.seconds for verdict in verdicts)
    return f"{len(verdicts)} cases: {', '.join(parts)}; largest memory {memory:.2f} GiB, longest time {seconds:.1f} s"


def main() -> None:
    """Runs the cases and prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1360, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others count on from it")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many at once")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all cases under runs/fuzz/")
    parser.add_argument("--kind", choices=sorted(KINDS), help="this kind alone")
    options = parser.parse_args()
    global _base
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        os.environ.update(OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
        _import_everything()
        (Path(name) / "base").mkdir()
        _base = make_base(Path(name) / "base")
        make_transformers(_base)
        untouched = contents(_base.folder)
        seeds = range(options.seed, options.seed + options.cases)
        wanted = [s for s in seeds if options.kind in (None, sorted(KINDS)[s % len(KINDS)])]
        tasks = [(seed, f"{name}/cases", options.keep) for seed in wanted]
        verdicts = []
        with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
            for verdict in pool.imap_unordered(_work, tasks):
                verdicts.append(verdict)
                if verdict.faults:
                    print(f"seed {verdict.seed} ({verdict.kind}): {verdict.faults}", flush=True)
        if contents(_base.folder) != untouched:
            verdicts[0].faults["lost files"] = "the base of all cases was changed"
    print(dict(sorted(Counter(verdict.status for verdict in verdicts).items())), "by exit status")
    failed = sorted(verdict.seed for verdict in verdicts if verdict.faults)
    if failed:
        print(f"kept in {KEPT.relative_to(ROOT)}, each with its repeat.sh: {', '.join(map(str, failed))}")
    print(summary(verdicts))
    sys.exit(any(verdict.faults for verdict in verdicts))


if __name__ == "__main__":
    main()
