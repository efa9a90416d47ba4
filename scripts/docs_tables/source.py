"""What the tables of the documentation are made of: the records, the list of tables, and how rates are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from clip_antidote.benchmark.records import RunRecord, SuspectRecord
from clip_antidote.benchmark.store import read_runs, read_settings, read_suspects
from clip_antidote.benchmark.tables import ASR_DIGITS, mean_percent
from clip_antidote.evaluation.metrics import Metrics

ATTACKS = ("badnet", "blended", "sig", "ssba", "wanet", "trojvqa", "badclip")
TARGETS = ("church", "sunflower")


class Records:
    """What `docs/records` holds, read once.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file, the measurements among their values read."""
        parts = ("before", "after", "after_single", "reference", "clean")
        return [
            {k: Metrics.from_counts(v) if k in parts and "ca" in v else v for k, v in row.items()}
            for row in self.file(name)["rows"]
        ]

    @cached_property
    def zoo(self) -> list[RunRecord]:
        """Runs with the search, gate and second look as they were before 2026-11-26."""
        return read_runs(self.folder / "zoo_120")

    @cached_property
    def adaptive_present(self) -> list[RunRecord]:
        """Attackers who know the second look too, against the present one."""
        return read_runs(self.folder / "adaptive_present")

    @cached_property
    def adaptive(self) -> list[RunRecord]:
        """Attackers who know the gate, against the one that reads inner layers too."""
        return read_runs(self.folder / "adaptive_120")

    @cached_property
    def shots(self) -> list[RunRecord]:
        return read_runs(self.folder / "shots_120")

    @cached_property
    def field(self) -> list[RunRecord]:
        """Every defense of the field on the same poisoned models."""
        return read_runs(self.folder / "field")

    @cached_property
    def field_refused(self) -> list[RunRecord]:
        """Those of them that could not run."""
        return read_runs(self.folder / "field", refused=True)

    @cached_property
    def field_suspects(self) -> list[SuspectRecord]:
        """The models of the field."""
        return read_suspects(self.folder / "field")

    @cached_property
    def field_passed(self) -> set[str]:
        """Names of those of them whose implant passed its check."""
        return {one.name for one in self.field_suspects if one.implant_check == "passed"}

    @cached_property
    def field_cpu(self) -> list[RunRecord]:
        """Every defense of the field on one of these models, made and defended on a CPU."""
        return read_runs(self.folder / "field_cpu")

    @cached_property
    def field_bases(self) -> list[RunRecord]:
        """Every defense of the field on models of other kinds, made from bases of the population."""
        return read_runs(self.folder / "field_bases")

    @cached_property
    def suspects(self) -> list[SuspectRecord]:
        return read_suspects(self.folder / "zoo_120")

    @cached_property
    def main(self) -> list[RunRecord]:
        """Seven attacks, two targets, the seeds that were run, the default."""
        return _seven_attacks(read_runs(self.folder / "zoo_seeds"))

    @cached_property
    def former(self) -> list[RunRecord]:
        """The same, with three seeds, by what was the default before 2026-11-26."""
        return _seven_attacks(self.zoo)

    @cached_property
    def threshold(self) -> float:
        """The evidence from which a class was suspected by the former search."""
        return read_settings(self.folder / "zoo_120")[self.former[0].settings or ""]["inversion"]["score_threshold"]


def _seven_attacks(runs: list[RunRecord]) -> list[RunRecord]:
    """The runs of the seven attacks and both targets by the default, in the order of the tables."""
    return [
        run
        for attack in ATTACKS
        for target in TARGETS
        for run in runs
        if (run.attack, run.target, run.label, run.defense) == (attack, target, None, "cbpt")
    ]


Builder = Callable[[Records], str]
TABLES: dict[str, Builder] = {}


def table(name: str) -> Callable[[Builder], Builder]:
    """Registers the builder of a table under the name its marker has."""

    def register(builder: Builder) -> Builder:
        TABLES[name] = builder
        return builder

    return register


def cell(metrics: Metrics | None, key: str) -> str:
    """One rate in percent, attack success with two decimals."""
    return mean_percent([metrics.value(key) if metrics else None], ASR_DIGITS if key == "asr" else 1)


def change(before: Metrics, after: Metrics, key: str) -> str:
    """A rate before and after, in percent."""
    return f"{mean_percent([before.value(key)])} → {cell(after, key)}"


def averages(measured: Sequence[Metrics], *keys: str) -> list[str]:
    """The means of rates, in percent."""
    return [mean_percent(m.value(key) for m in measured) for key in keys]


def one_per_suspect(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The first run of every suspect, for what does not depend on the seed."""
    return list({run.suspect: run for run in reversed(list(runs))}.values())


def at_threshold(runs: Iterable[RunRecord], threshold: float) -> list[Metrics]:
    """The measurements with the gate at a threshold."""
    return [metrics for run in runs for t, metrics in run.curve if t == threshold]
