"""Which cells two grids, or two defenses of one grid, share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_antidote.benchmark.fidelity import run_fidelity
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.store import read_runs
from clip_antidote.benchmark.tables import with_parts
from clip_antidote.errors import DataError, UsageError


@dataclass(frozen=True)
class Pair:
    """Two runs of one cell.

    Attributes:
        group: The defense, where two grids are compared; "A – B" where two defenses are.
        a: The first.
        b: The second.
    """

    group: str
    a: RunRecord
    b: RunRecord

    def difference(self, key: str) -> float | None:
        """A − B of a metric, in [-1, 1]; None where either was not measured."""
        a, b = metric_value(self.a, key), metric_value(self.b, key)
        return None if a is None or b is None else a - b


@dataclass(frozen=True)
class Pairs:
    """What two grids or defenses share.

    Attributes:
        pairs: The shared cells.
        only_a: Cells that A alone has.
        only_b: Cells that B alone has.
        notes: What to know when reading the comparison.
    """

    pairs: tuple[Pair, ...]
    only_a: int
    only_b: int
    notes: tuple[str, ...] = ()


def metric_value(run: RunRecord, key: str) -> float | None:
    """A metric of the defended model, or the fidelity."""
    return run_fidelity(run) if key == "fidelity" else run.after.value(key)


def pair_grids(a: Path, b: Path) -> Pairs:
    """Pairs the cells of two benchmark folders: the same suspect, defense, shots and seed.

    Raises:
        DataError: A folder has no runs, or they share none.
    """
    first, second = ({run.key: run for run in with_parts(read_runs(folder))} for folder in (a, b))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise DataError(
            f"{a} and {b} share no cell (suspect, defense, shots and seed); compare grids of the same models"
        )
    pairs = tuple(Pair(key[1], first[key], second[key]) for key in shared)
    return Pairs(pairs, len(first) - len(shared), len(second) - len(shared), _notes(pairs))


def pair_defenses(folder: Path, a: str, b: str) -> Pairs:
    """Pairs the cells of two defenses of one benchmark folder: the same suspect, shots and seed.

    Raises:
        UsageError: The folder has no runs of one of them.
        DataError: It has no runs, or the two share no cell.
    """
    runs = with_parts(read_runs(folder))
    known = list(dict.fromkeys(run.defense for run in runs))
    if unknown := [name for name in (a, b) if name not in known]:
        raise UsageError(f"{folder} has no runs of the defense '{unknown[0]}'; it has {', '.join(known)}")
    first, second = (
        {(run.suspect, run.shots, run.seed): run for run in runs if run.defense == name} for name in (a, b)
    )
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise DataError(f"'{a}' and '{b}' share no cell (suspect, shots and seed) in {folder}; run both on the same")
    pairs = tuple(Pair(f"{a} – {b}", first[key], second[key]) for key in shared)
    return Pairs(pairs, len(first) - len(shared), len(second) - len(shared), _notes(pairs))


def _notes(pairs: Sequence[Pair]) -> tuple[str, ...]:
    notes = []
    others = {p.a.suspect for p in pairs if p.a.suspect_sha256 != p.b.suspect_sha256}
    if others:
        notes.append(
            f"{len(others)} of the models have the same name but other weights: they are paired by name alone"
        )
    if any(p.a.after.ca.count != p.b.after.ca.count for p in pairs):
        notes.append("the two were measured on different numbers of images: only the models are paired")
    return tuple(notes)
