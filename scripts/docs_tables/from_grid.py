"""Tables of the documentation that come from the grid of suspects, defenses and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

from source import TARGETS, Records, at_threshold, averages, cell, change, one_per_suspect, table

from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.tables import (
    ASR_DIGITS,
    curve_table,
    largest,
    markdown,
    mean_percent,
    results_table,
    summary_table,
    zoo_table,
)


@table("zoo-summary")
def _(records: Records) -> str:
    return summary_table(records.main)


@table("zoo-former")
def _(records: Records) -> str:
    return summary_table(records.former)


@table("zoo-runs")
def _(records: Records) -> str:
    return results_table(records.main)


for _name, _targets in {"all": TARGETS, "church": TARGETS[:1], "sunflower": TARGETS[1:]}.items():

    @table(f"curve-{_name}")
    def _(records: Records, targets: tuple[str, ...] = _targets) -> str:
        return curve_table(run for run in records.main if run.target in targets)


@table("zoo")
def _(records: Records) -> str:
    return zoo_table(records.suspects)


@table("recall")
def _(records: Records) -> str:
    runs = records.main
    models = [run.before for run in one_per_suspect(runs)]
    singles = [run.after_single for run in runs if run.after_single is not None]
    rows = {
        "clean model": [run.reference for run in runs[:1] if run.reference is not None],
        f"undefended, {len(models)} models": models,
        "**clip-antidote**": [run.after for run in runs],
        "one weight per class": singles,
    }
    keys = ("ca", "mean_per_class_recall")
    return markdown(
        ["", "CA", "mean per-class recall"], [[name, *averages(values, *keys)] for name, values in rows.items()]
    )


@table("recovery")
def _(records: Records) -> str:
    rows = []
    for suspect in one_per_suspect(records.main)[::-1]:
        runs = [run for run in records.main if run.suspect == suspect.suspect]
        after = mean(run.after.value("pa") or 0.0 for run in runs)
        looks = [run.after_one_look for run in runs if run.after_one_look is not None]
        assert suspect.reference is not None
        clean = suspect.reference.value("pa") or 0.0
        cells = [mean_percent([suspect.before.value("pa")]), *averages(looks, "pa"), mean_percent([after])]
        rows.append(
            [suspect.attack, str(suspect.target), *cells, mean_percent([clean]), f"{100 * after / clean:.0f} %"]
        )
    heads = ["attack", "target", "undefended", "one look", "second look (default)", "clean model"]
    return markdown([*heads, "of the clean model's"], rows)


@table("shots")
def _(records: Records) -> str:
    names = {run.suspect for run in records.shots}
    wide = [run for run in records.former if run.suspect in names and run.seed == 0]
    rows = []
    for run in sorted([*records.shots, *wide], key=lambda run: (run.suspect, run.shots)):
        rates = [cell(run.after, key) for key in ("ca", "asr", "pa", "target_ca")]
        evidence = f"{run.scores[0].score:.1f}"
        rows.append([run.suspect, str(run.shots), run.target_suspected or "–", evidence, *rates])
    return markdown(["suspect", "shots", "target named", "evidence", "CA", "ASR", "PA", "target CA"], rows)


def changes(runs: Iterable[RunRecord]) -> str:
    """Before and after, a row per run, with the clean model's recovery and target class beside."""
    rows = [
        [
            run.suspect,
            run.defense,
            change(run.before, run.after, "ca"),
            change(run.before, run.after, "asr"),
            cell(run.after, "asr_floor"),
            *(f"{change(run.before, run.after, key)} ({cell(run.reference, key)})" for key in ("pa", "target_ca")),
            ", ".join(run.targets_suspected or ()),
        ]
        for run in runs
    ]
    heads = ["suspect", "defense", "CA", "ASR", "floor", "PA (clean model)", "target CA (clean model)"]
    return markdown([*heads, "targets named"], rows)


@table("adaptive-present")
def _(records: Records) -> str:
    return changes(records.adaptive_present)


@table("adaptive")
def _(records: Records) -> str:
    return changes(run for run in records.zoo if run.attack == "adaptive" or run.label == "crops")


@table("adaptive-inner")
def _(records: Records) -> str:
    return changes(records.adaptive)


@table("low-rate")
def _(records: Records) -> str:
    runs = [run for run in records.zoo if run.label in ("low", "five")]
    return changes(sorted(runs, key=lambda run: run.label != "low"))


@table("cleanclip")
def _(records: Records) -> str:
    runs = [run for run in records.zoo if run.defense == "cleanclip"]
    runs.sort(key=lambda run: run.reference.value("asr") or 0.0 if run.reference else 0.0)
    rows = []
    for run in runs:
        name = "-".join(part for part in (run.attack, run.label) if part)
        pairs = [
            f"{mean_percent([run.before.value(key)])} → {mean_percent([run.after.value(key)])}"
            for key in ("ca", "asr", "pa")
        ]
        rows.append([name, mean_percent([run.reference.value("asr") if run.reference else None]), *pairs])
    return markdown(["attack", "ASR clean model", "CA", "ASR", "PA"], rows)


def asr_text(rate: float | None) -> str:
    """Attack success for a summary, with two decimals where it is small."""
    assert rate is not None
    return f"{100 * rate:.{ASR_DIGITS if rate < 0.1 else 1}f} %"


@table("readme-summary")
def _(records: Records) -> str:
    runs = records.main
    alone = one_per_suspect(runs)
    parts = {
        "undefended": [run.before for run in alone],
        "**clip-antidote**": [run.after for run in runs],
        "the same at gate threshold 0.5": at_threshold(runs, 0.5),
        "the same without the second look": [run.after_one_look for run in runs if run.after_one_look],
        "the same, one weight per class (CBPT as published)": [run.after_single for run in runs if run.after_single],
        "the clean model, under the same triggers": [run.reference for run in alone if run.reference],
    }
    rows = []
    for name, measured in parts.items():
        ca, pa, kept = (f"{value} %" for value in averages(measured, "ca", "pa", "target_ca"))
        asr = asr_text(mean(m.value("asr") or 0.0 for m in measured))
        rows.append([name, ca, f"{asr} (largest {asr_text(largest(measured))})", pa, kept])
    return markdown([f"mean of {len(runs)} runs", "CA", "ASR", "PA", "CA of the target class"], rows)
