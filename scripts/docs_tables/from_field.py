"""Tables of every defense of the field on the same poisoned models."""

from __future__ import annotations

from collections.abc import Sequence

from source import Records, table

from clip_antidote.benchmark.costs import costs_table
from clip_antidote.benchmark.fidelity import mean_fidelity
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.tables import ASR_DIGITS, markdown, mean_percent, refused_table, summary_table
from clip_antidote.evaluation.metric_table import MISSING
from clip_antidote.evaluation.metrics import Metrics


def ranked(records: Records) -> list[RunRecord]:
    """The runs on models that every defense has met, so that means are over the same ones.

    The defense of the highest mean fidelity comes first; the oracle, which is told the trigger, last.
    """
    met: dict[str, dict[str, RunRecord]] = {}
    for run in records.field:
        met.setdefault(run.suspect, {})[run.defense] = run
    names = {run.defense for run in records.field} - {"none"}
    whole = [runs for runs in met.values() if names <= runs.keys()]
    fidelity = {name: mean_fidelity([runs[name] for runs in whole]) or 0.0 for name in names}
    order = sorted(names, key=lambda name: (name == "oracle", -fidelity[name], name))
    return [runs[name] for name in order for runs in whole]


@table("field")
def _(records: Records) -> str:
    return summary_table(ranked(records))


@table("field-costs")
def _(records: Records) -> str:
    return costs_table(ranked(records))


@table("field-models")
def _(records: Records) -> str:
    """ASR and, in brackets, PA of every defense on every model that it was run on."""
    models = {run.suspect: run for run in records.field}
    found = {(run.defense, run.suspect): run.after for run in records.field}
    rows: dict[str, list[Metrics | None]] = {
        "(clean model)": [run.reference for run in models.values()],
        "none": [run.before for run in models.values()],
        **{run.defense: [found.get((run.defense, model)) for model in models] for run in ranked(records)},
    }
    heads = [f"{run.attack} → {run.target}" for run in models.values()]
    return markdown(["defense", *heads], [[name, *asr_and_pa(measured)] for name, measured in rows.items()])


def asr_and_pa(measured: Sequence[Metrics | None]) -> list[str]:
    """ASR and, in brackets, PA; of what was not measured neither."""
    return [
        f"{mean_percent([m.value('asr')], ASR_DIGITS)} ({mean_percent([m.value('pa')])})" if m else MISSING
        for m in measured
    ]


@table("field-refused")
def _(records: Records) -> str:
    """What could not run, with its reason."""
    return refused_table(records.field_refused)
