"""Tables of every defense of the field on the same poisoned models."""

from __future__ import annotations

from collections.abc import Sequence

from source import Records, averages, table

from clip_antidote.benchmark.costs import HEADS, cost_of
from clip_antidote.benchmark.fidelity import mean_fidelity
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.tables import (
    ASR_DIGITS,
    fidelity_text,
    kept_share,
    largest,
    markdown,
    mean_percent,
    refused_table,
)
from clip_antidote.evaluation.metric_table import MISSING
from clip_antidote.evaluation.metrics import Metrics

COSTS = [head for head in HEADS if head != "device memory, MiB"]
"""Costs that are shown; nothing here ran on an accelerator."""


RATES = ("asr_floor", "pa", "target_ca")


class Field:
    """Every defense on poisoned models, as far as it was run.

    Args:
        runs: All runs that did.

    Attributes:
        runs: By defense and model.
        models: The models that every defense has met, so that means are over the same ones.
        ranked: The defenses, the highest mean fidelity first; the oracle, which is told the trigger, last.
    """

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        self.runs = {(run.defense, run.suspect): run for run in runs}
        names = list(dict.fromkeys(defense for defense, _ in self.runs))
        models = list(dict.fromkeys(run.suspect for run in runs))
        self.models = [model for model in models if all((name, model) in self.runs for name in names)]
        fidelity = {name: mean_fidelity(self.of(name)) or 0.0 for name in names}
        names = [name for name in names if name != "none"]
        self.ranked = sorted(names, key=lambda name: (name == "oracle", -fidelity[name]))

    def of(self, defense: str) -> list[RunRecord]:
        """The runs of a defense on the models that every defense has met."""
        return [self.runs[defense, model] for model in self.models]


def _row(
    name: str, measured: Sequence[Metrics], kept: float | None, fidelity: str, costs: Sequence[str]
) -> list[str]:
    asr = [mean_percent(values, ASR_DIGITS) for values in ([m.value("asr") for m in measured], [largest(measured)])]
    accuracy, rest = averages(measured, "ca", "mean_per_class_recall"), averages(measured, *RATES)
    return [name, *accuracy, *asr, *rest, mean_percent([kept]), fidelity, *costs]


@table("field")
def _(records: Records) -> str:
    field = Field(records.field)
    bare, blank = field.of("none"), [""] * len(COSTS)
    clean = [run.reference for run in bare if run.reference is not None]
    rows = [
        _row("(clean model)", clean, 1.0, "", blank),
        _row("none", [run.before for run in bare], kept_share(bare), fidelity_text(0.0), blank),
    ]
    for name in field.ranked:
        own = field.of(name)
        costs = dict(zip(HEADS, cost_of(own).cells(), strict=True))
        shown = [costs[head] for head in COSTS]
        rows.append(_row(name, [run.after for run in own], kept_share(own), fidelity_text(mean_fidelity(own)), shown))
    heads = ["defense", "CA", "mean recall", "ASR", "largest ASR", "floor", "PA", "target CA"]
    return markdown([*heads, "PA / PA of the clean model", "fidelity", *COSTS], rows)


@table("field-models")
def _(records: Records) -> str:
    """ASR and, in brackets, PA of every defense on every model that it was run on."""
    field = Field(records.field)
    models = {run.suspect: run for run in records.field}
    rows = [
        ["(clean model)", *(_asr_and_pa(run.reference) for run in models.values())],
        ["none", *(_asr_and_pa(run.before) for run in models.values())],
    ]
    for name in field.ranked:
        found = [field.runs.get((name, model)) for model in models]
        rows.append([name, *(_asr_and_pa(run.after if run else None) for run in found)])
    return markdown(["defense", *(f"{run.attack} → {run.target}" for run in models.values())], rows)


def _asr_and_pa(measured: Metrics | None) -> str:
    if measured is None:
        return MISSING
    return f"{mean_percent([measured.value('asr')], ASR_DIGITS)} ({mean_percent([measured.value('pa')])})"


@table("field-refused")
def _(records: Records) -> str:
    """What could not run, with its reason."""
    return refused_table(records.field_refused)
