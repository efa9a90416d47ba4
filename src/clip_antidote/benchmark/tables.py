"""Tables from records, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Any

from clip_antidote.evaluation.metric_table import METRICS


def _percent(values: Iterable[float | None], digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * mean(known):.{digits}f}" if known else "–"


def _columns(metrics: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The rates to show and their heads; what older records lack is left out, for a mean over some tells nothing."""
    newer = "mean_per_class_recall"
    known = all(newer in m for m in metrics)
    return {m.key: m.head for m in METRICS if m.in_tables and (known or m.key != newer)}


def _head(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def _row(columns: Iterable[str], name: list[str], metrics: list[dict[str, Any]], more: list[str]) -> str:
    cells = [*name, *(_percent(m.get(column) for m in metrics) for column in columns), *more]
    return "| " + " | ".join(cells) + " |"


PARTS = {"after_one_look": "one look", "after_single": "one weight"}
"""What a record holds of the same run with less: without the second look, and with one weight per class."""


def with_parts(records: list[dict[str, Any]], parts: Iterable[str] = PARTS) -> list[dict[str, Any]]:
    """Adds the same runs with less of the defense, where the records hold them and they differ."""
    out = []
    for record in records:
        out.append(record)
        for key in parts:
            if record.get(key) is not None and record[key] != record["after"]:
                out.append({**record, "after": record[key], "defense": f"{record['defense']} ({PARTS[key]})"})
    return out


def results_table(records: list[dict[str, Any]]) -> str:
    """One row per suspect and defense, means over seeds in percent; undefended and clean model beside."""
    columns = _columns(r["after"] for r in records)
    lines = _head("suspect", "defense", *columns.values(), "ASR by seed", "target named", "seconds")
    records = with_parts(records, ["after_single"])
    for suspect in sorted({r["suspect"] for r in records}):
        rows = [r for r in records if r["suspect"] == suspect]
        if rows[0]["reference"]:
            lines.append(_row(columns, [suspect, "(clean model)"], [rows[0]["reference"]], ["", "", ""]))
        lines.append(_row(columns, [suspect, "none"], [rows[0]["before"]], ["", "", ""]))
        for defense in dict.fromkeys(r["defense"] for r in rows):
            runs = sorted((r for r in rows if r["defense"] == defense), key=lambda r: r["seed"])
            by_seed = " ".join(_percent([r["after"].get("asr")], 2) for r in runs)
            named = sum(r["target_suspected"] == r["target"] for r in runs)
            seconds = f"{mean(r['seconds'] for r in runs):.0f}"
            lines.append(
                _row(
                    columns,
                    [suspect, defense],
                    [r["after"] for r in runs],
                    [by_seed, f"{named}/{len(runs)}", seconds],
                )
            )
    return "\n".join(lines)


def summary_table(records: list[dict[str, Any]]) -> str:
    """One row per defense, means over all poisoned suspects and seeds in percent."""
    poisoned = [r for r in with_parts(records) if r["target"] is not None]
    columns = _columns(r["after"] for r in poisoned)
    lines = _head(
        "defense",
        *columns.values(),
        "largest ASR",
        "PA / PA of the oracle",
        "PA / PA of the clean model",
        "target named",
    )
    oracle = {(r["suspect"], r["seed"]): r["after"]["pa"] for r in poisoned if r["defense"] == "oracle"}
    undefended = list({r["suspect"]: r["before"] for r in poisoned}.values())
    lines.append(
        _row(columns, ["none"], undefended, [_percent([max((m["asr"] for m in undefended), default=0)]), "", "", ""])
    )
    for defense in dict.fromkeys(r["defense"] for r in poisoned):
        runs = [r for r in poisoned if r["defense"] == defense]
        shares = [
            r["after"]["pa"] / oracle[r["suspect"], r["seed"]] for r in runs if oracle.get((r["suspect"], r["seed"]))
        ]
        kept = [r["after"]["pa"] / r["reference"]["pa"] for r in runs if r["reference"]]
        named = sum(r["target_suspected"] == r["target"] for r in runs)
        more = [_percent([max(r["after"]["asr"] for r in runs)], 2), _percent(shares), _percent(kept)]
        lines.append(_row(columns, [defense], [r["after"] for r in runs], [*more, f"{named}/{len(runs)}"]))
    return "\n".join(lines)


def curve_table(records: list[dict[str, Any]]) -> str:
    """ASR against target-class CA along the gate's threshold, means over all runs whose target was found.

    Runs without a gate have no curve; empty where there is none at all.
    """
    runs = [r for r in records if r.get("curve") and r["defense"] == "cbpt"]
    if not runs:
        return ""
    lines = _head("threshold", "CA", "ASR", "largest ASR", "PA", "target CA", "lowest target CA")
    for points in zip(*(run["curve"] for run in runs), strict=True):
        values = {key: [point[key] for point in points] for key in ("ca", "asr", "pa", "target_ca")}
        cells = [
            f"{points[0]['threshold']:g}",
            _percent(values["ca"]),
            _percent(values["asr"], 2),
            _percent([max(values["asr"])], 2),
            _percent(values["pa"]),
            _percent(values["target_ca"]),
            _percent([min(values["target_ca"])]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def zoo_table(records: list[dict[str, Any]]) -> str:
    """One row per model of the zoo: what the attack did, in percent, and the clean model beside it.

    Args:
        records: Records of `prepare_zoo`.
    """
    columns = _columns(record["poisoned"] for record in records)
    lines = _head(
        "model",
        "poison",
        "steps",
        "CA clean",
        *columns.values(),
        "ASR clean model",
        "PA clean model",
        "seconds",
        "implant check",
    )
    for record in records:
        clean, poisoned, config = record["clean"], record["poisoned"], record["config"]
        rate = config.get("poison_rate")
        name = [
            record["name"],
            "–" if rate is None else f"{100 * rate:g} %",
            str(config["training"]["steps"]),
            _percent([clean["ca"]]),
        ]
        reference = [_percent([clean.get("asr")]), _percent([clean.get("pa")])]
        check = record["implant_check"].split(":")[0]
        lines.append(_row(columns, name, [poisoned], [*reference, f"{record['seconds']:.0f}", check]))
    return "\n".join(lines)
