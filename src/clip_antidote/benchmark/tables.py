"""Tables from records, as Markdown; rates in percent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean

from clip_antidote.benchmark.fidelity import fidelity, mean_fidelity
from clip_antidote.benchmark.records import RunRecord, SuspectRecord
from clip_antidote.errors import DataError
from clip_antidote.evaluation.metric_table import METRICS, MISSING, Metric
from clip_antidote.evaluation.metrics import Metrics

BY_KEY = {metric.key: metric for metric in METRICS}
ASR_DIGITS = BY_KEY["asr"].decimals


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of a head and rows of cells; a cell is one line, whatever it holds."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(_one_cell, row)) + " |" for row in rows)])


def _one_cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", "\\|")


def mean_percent(values: Iterable[float | None], digits: int = 1) -> str:
    """The mean of what is known, in percent."""
    known = [value for value in values if value is not None]
    return f"{100 * mean(known):.{digits}f}" if known else MISSING


def fidelity_text(value: float | None) -> str:
    """A mitigation fidelity for reading; it is a product of ratios, not a percentage."""
    return MISSING if value is None else f"{value:.3f}".replace("-", "−")


def _unchanged(runs: Sequence[RunRecord]) -> str:
    """The fidelity of doing nothing: 0 for a poisoned model, 1 for a clean one."""
    before = runs[0].before
    return fidelity_text(fidelity(before, before, poisoned=runs[0].target is not None))


def _columns(measured: Iterable[Metrics]) -> list[Metric]:
    """The metrics to show; what some records lack is left out, for a mean over some of them tells nothing."""
    complete = all(m.mean_per_class_recall is not None for m in measured)
    return [m for m in METRICS if m.in_tables and (complete or m.counted)]


def _means(columns: Iterable[Metric], measured: Sequence[Metrics]) -> list[str]:
    return [mean_percent((m.value(column.key) for m in measured), column.decimals) for column in columns]


PARTS = {"after_one_look": "one look", "after_single": "one weight"}
"""What a record holds of the same run with less: without the second look, and with one weight per class."""


def with_parts(runs: Iterable[RunRecord], parts: Iterable[str] = PARTS) -> list[RunRecord]:
    """Adds the same runs with less of the defense, where the records hold them and they differ."""
    out = []
    for run in runs:
        out.append(run)
        for key in parts:
            measured: Metrics | None = getattr(run, key)
            if measured is not None and measured != run.after:
                name = f"{run.defense} ({PARTS[key]})"
                out.append(run.model_copy(update={"after": measured, "defense": name}))
    return out


def _with_shots(runs: list[RunRecord]) -> list[RunRecord]:
    """Says the shots beside the defense where they differ."""
    if len({run.shots for run in runs}) == 1:
        return runs
    return [
        run.model_copy(update={"defense": f"{run.defense}, {run.shots} {'shot' if run.shots == 1 else 'shots'}"})
        for run in runs
    ]


def results_table(runs: list[RunRecord]) -> str:
    """One row per suspect and defense, means over seeds; undefended and clean model beside."""
    columns = _columns(run.after for run in runs)
    rows = []
    runs = with_parts(_with_shots(runs), ["after_single"])
    for suspect in sorted({run.suspect for run in runs}):
        own = [run for run in runs if run.suspect == suspect]
        if own[0].reference is not None:
            rows.append([suspect, "(clean model)", *_means(columns, [own[0].reference]), "", "", "", ""])
        rows.append([suspect, "none", *_means(columns, [own[0].before]), _unchanged(own), "", "", ""])
        for defense in dict.fromkeys(run.defense for run in own):
            these = sorted((run for run in own if run.defense == defense), key=lambda run: run.seed)
            by_seed = " ".join(mean_percent([run.after.value("asr")], ASR_DIGITS) for run in these)
            cells = _means(columns, [run.after for run in these])
            cells.append(fidelity_text(mean_fidelity(these)))
            rows.append([suspect, defense, *cells, by_seed, _named(these), f"{mean(r.seconds for r in these):.0f}"])
    heads = [column.head for column in columns]
    return markdown(["suspect", "defense", *heads, "fidelity", "ASR by seed", "target named", "seconds"], rows)


def _named(runs: Sequence[RunRecord]) -> str:
    return f"{sum(run.named for run in runs)}/{len(runs)}"


def largest(runs: Iterable[Metrics], key: str = "asr") -> float | None:
    """The largest value of a metric, None where it was never measured."""
    return max((value for m in runs if (value := m.value(key)) is not None), default=None)


def kept_share(runs: Iterable[RunRecord], key: str = "pa") -> float | None:
    """The mean of what is left of the clean model's metric, over the runs that know it."""
    pairs = [(run.after.value(key), run.reference.value(key)) for run in runs if run.reference is not None]
    shares = [after / clean for after, clean in pairs if after is not None and clean]
    return mean(shares) if shares else None


def summary_table(runs: list[RunRecord]) -> str:
    """One row per defense, means over all poisoned suspects and seeds."""
    poisoned = with_parts(_with_shots([run for run in runs if run.target is not None]))
    columns = _columns(run.after for run in poisoned)
    oracle = {(run.suspect, run.seed): run.after.value("pa") for run in poisoned if run.defense == "oracle"}
    undefended = list({run.suspect: run.before for run in poisoned}.values())
    oracle_head = ["PA / PA of the oracle"] if oracle else []
    heads = [column.head for column in columns]
    rows = [
        ["none", *_means(columns, undefended), mean_percent([largest(undefended)], ASR_DIGITS)]
        + [_unchanged(poisoned) if poisoned else MISSING]
        + [""] * (2 + len(oracle_head))
    ]
    for defense in dict.fromkeys(run.defense for run in poisoned):
        these = [run for run in poisoned if run.defense == defense]
        after = [run.after for run in these]
        cells = [*_means(columns, after), mean_percent([largest(after)], ASR_DIGITS)]
        cells.append(fidelity_text(mean_fidelity(these)))
        if oracle:
            cells.append(mean_percent(_oracle_shares(these, oracle)))
        rows.append([defense, *cells, mean_percent([kept_share(these)]), _named(these)])
    return markdown(
        ["defense", *heads, "largest ASR", "fidelity", *oracle_head, "PA / PA of the clean model", "target named"],
        rows,
    )


def _oracle_shares(runs: Iterable[RunRecord], oracle: dict[tuple[str, int], float | None]) -> list[float]:
    pairs = [(run.after.value("pa"), oracle.get((run.suspect, run.seed))) for run in runs]
    return [pa / best for pa, best in pairs if pa is not None and best]


EXTREMES: dict[str, tuple[str, Callable[[list[float]], float]]] = {
    "asr": ("largest", max),
    "target_ca": ("lowest", min),
}
"""The worst of the runs, shown beside the mean along the curve."""


def curve_table(runs: Iterable[RunRecord]) -> str:
    """ASR against target-class CA along the gate's threshold, means over all runs whose target was found.

    Runs without a gate have no curve; empty where there is none at all.
    """
    curves = [run.curve for run in runs if run.curve and run.defense == "cbpt"]
    if not curves:
        return ""
    points = [metrics for curve in curves for _, metrics in curve]
    if len({tuple(threshold for threshold, _ in curve) for curve in curves}) > 1:
        raise DataError("the runs have curves of different thresholds; run them again with the same settings")
    columns = [column for column in _columns(points) if column.along_curve]
    heads, rows = ["threshold"], []
    for column in columns:
        worst = EXTREMES.get(column.key)
        heads += [column.head, *([f"{worst[0]} {column.head}"] if worst else [])]
    for step in zip(*curves, strict=True):
        cells = [f"{step[0][0]:g}"]
        for column in columns:
            values = [value for _, m in step if (value := m.value(column.key)) is not None]
            cells.append(mean_percent(values, column.decimals))
            if worst := EXTREMES.get(column.key):
                cells.append(mean_percent([worst[1](values)] if values else [], column.decimals))
        rows.append(cells)
    return markdown(heads, rows)


def why_not(run: RunRecord) -> str:
    """Why a run has no result; empty where it has."""
    if run.failed is not None:
        return f"failed: {run.failed}"
    return f"refused: {run.refused}" if run.refused is not None else ""


def refused_table(runs: Iterable[RunRecord]) -> str:
    """One row per suspect and defense that refused or failed, with the reason; empty where all ran."""
    reasons = {(run.suspect, run.defense): why_not(run) for run in runs}
    rows = [[suspect, defense, reason] for (suspect, defense), reason in reasons.items()]
    return markdown(["suspect", "defense", "not run"], rows) if rows else ""


def _steps(suspect: SuspectRecord) -> str:
    training = suspect.config.get("training")
    return str(training.get("steps", MISSING)) if isinstance(training, dict) else MISSING


def zoo_table(suspects: list[SuspectRecord]) -> str:
    """One row per model of the zoo: what the attack did, and the clean model beside it."""
    columns = _columns(suspect.poisoned for suspect in suspects)
    rows = []
    for suspect in suspects:
        rate = suspect.config.get("poison_rate")
        rows.append(
            [
                suspect.name,
                f"{100 * rate:g} %" if isinstance(rate, int | float) else MISSING,
                _steps(suspect),
                mean_percent([suspect.clean.value("ca")]),
                *_means(columns, [suspect.poisoned]),
                mean_percent([suspect.clean.value("asr")], ASR_DIGITS),
                mean_percent([suspect.clean.value("pa")]),
                f"{suspect.seconds:.0f}",
                suspect.implant_check.split(":")[0],
            ]
        )
    heads = ["model", "poison", "steps", "CA clean", *(column.head for column in columns)]
    return markdown([*heads, "ASR clean model", "PA clean model", "seconds", "implant check"], rows)
