"""Tables of every defense of the field on the same poisoned models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean

from source import Records, cell, one_per_suspect, table

from clip_antidote.benchmark.costs import costs_table
from clip_antidote.benchmark.fidelity import mean_fidelity
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.tables import ASR_DIGITS, markdown, mean_percent, summary_table, why_not, zoo_table
from clip_antidote.evaluation.metrics import Metrics


def ranked(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs on models that every defense has met, so that means are over the same ones.

    The defense of the highest mean fidelity comes first; the oracle, which is told the trigger, last.
    """
    met: dict[str, dict[str, RunRecord]] = {}
    for run in runs:
        met.setdefault(run.suspect, {})[run.defense] = run
    names = {run.defense for run in runs} - {"none"}
    whole = [own for own in met.values() if names <= own.keys()]
    fidelity = {name: mean_fidelity([own[name] for own in whole]) or 0.0 for name in names}
    order = sorted(names, key=lambda name: (name == "oracle", -fidelity[name], name))
    return [own[name] for name in order for own in whole]


def passed(records: Records) -> list[RunRecord]:
    """The runs on models whose backdoor took."""
    return ranked([run for run in records.field if run.suspect in records.field_passed])


@table("field")
def _(records: Records) -> str:
    return summary_table(passed(records))


SHORT = {"cbpt": "**clip-antidote**", "projection": "projection (given the clean base model)"}
BEST = 6
"""Of how many defenses, the best by mean fidelity, the short table has a row each."""


@table("field-short")
def _(records: Records) -> str:
    """Of the best defenses a row each, of the others what lies between them."""
    runs = passed(records)
    told = {
        name: [run.after for run in runs if run.defense == name] for name in dict.fromkeys(r.defense for r in runs)
    }
    told.pop("oracle")
    names = list(told)
    rows = [["undefended", *spread([[run.before for run in one_per_suspect(runs)]])]]
    rows += [[SHORT.get(name, name), *spread([told[name]])] for name in names[:BEST]]
    rows.append([", ".join(names[BEST:]), *spread([told[name] for name in names[BEST:]])])
    return markdown(["defense", "CA", "ASR", "PA", "CA of the target class"], rows)


def spread(groups: Sequence[Sequence[Metrics]]) -> list[str]:
    """Mean CA, ASR, PA and target-class CA of a group; of several the least and the largest of their means."""
    cells = []
    for key in ("ca", "asr", "pa", "target_ca"):
        digits = ASR_DIGITS if key == "asr" and len(groups) == 1 else 1
        means = sorted(mean([m.value(key) or 0.0 for m in group]) for group in groups)
        cells.append(" to ".join(mean_percent([value], digits) for value in dict.fromkeys((means[0], means[-1]))))
    return cells


@table("field-costs")
def _(records: Records) -> str:
    return costs_table(passed(records))


@table("field-cpu")
def _(records: Records) -> str:
    return summary_table(ranked(records.field_cpu))


@table("field-cpu-costs")
def _(records: Records) -> str:
    return costs_table(ranked(records.field_cpu))


def by_defense(runs: Sequence[RunRecord], names: Iterable[str]) -> dict[str, list[Metrics | None]]:
    """What was measured on every model, in the order of their runs: the clean one, undefended, then by defense."""
    models = one_per_suspect(runs)[::-1]
    found = {(run.defense, run.suspect): run.after for run in runs}
    return {
        "(clean model)": [run.reference for run in models],
        "none": [run.before for run in models],
        **{name: [found.get((name, run.suspect)) for run in models] for name in names},
    }


def by_model(records: Records, key: str) -> str:
    """A rate of every defense on every model, a column each; a star where the implant did not pass its check."""
    names = dict.fromkeys(run.defense for run in passed(records))
    heads = [
        run.attack + ("" if run.suspect in records.field_passed else " *")
        for run in one_per_suspect(records.field)[::-1]
    ]
    rows = by_defense(records.field, names)
    return markdown(["defense", *heads], [[name, *(cell(m, key) for m in own)] for name, own in rows.items()])


@table("field-zoo")
def _(records: Records) -> str:
    return zoo_table(records.field_suspects)


@table("field-asr")
def _(records: Records) -> str:
    return by_model(records, "asr")


@table("field-pa")
def _(records: Records) -> str:
    return by_model(records, "pa")


@table("field-refused")
def _(records: Records) -> str:
    """What could not run, with its reason and how often."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in records.field_refused:
        reasons.setdefault((run.defense, why_not(run)), []).append(run.attack)
    every = len({run.suspect for run in [*records.field, *records.field_refused]})
    rows = [
        [defense, reason, "every model" if len(models) == every else ", ".join(models)]
        for (defense, reason), models in reasons.items()
    ]
    return markdown(["defense", "not run", "on"], rows)


@table("field-bases")
def _(records: Records) -> str:
    """CA, ASR, PA and target-class CA of every defense on models of other bases, side by side."""
    runs = records.field_bases
    met = {run.defense for run in runs} - {"none"}
    names = [name for name in dict.fromkeys(run.defense for run in [*passed(records), *runs]) if name in met]
    keys = {"ca": "CA", "asr": "ASR", "pa": "PA", "target_ca": "target CA"}
    heads = [
        f"{run.attack}, {run.label}: {head}" if key == "ca" else head
        for run in one_per_suspect(runs)[::-1]
        for key, head in keys.items()
    ]
    rows = by_defense(runs, names)
    return markdown(
        ["defense", *heads], [[name, *(cell(m, key) for m in own for key in keys)] for name, own in rows.items()]
    )
