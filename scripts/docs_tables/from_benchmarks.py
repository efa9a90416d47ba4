"""Tables of the documentation that come from the scripts in `benchmarks/`, and from the demo."""

from __future__ import annotations

from statistics import mean
from typing import Any

from source import Records, cell, change, table

from clip_antidote.benchmark.records import Score
from clip_antidote.benchmark.tables import ASR_DIGITS, markdown, mean_percent


@table("recovery-views")
def _(records: Records) -> str:
    found = records.file("recovery_views")
    images, rows = found["images"], found["rows"]
    ways = list(rows[0]["right"])
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row["attack"], []).append(row)
    made = []
    for name, group in {**groups, "**all**": rows}.items():
        cells = [
            f"{mean_percent([row['right'][way] / images for row in group])} "
            f"({100 * mean(row['target'][way] / images for row in group):.0f})"
            for way in ways
        ]
        made.append([name, str(len(group)), *cells, mean_percent([row["base"] / images for row in group])])
    return markdown(["attack", "models", *ways, "base"], made)


@table("near-misses")
def _(records: Records) -> str:
    found = records.file("reactivation")["rows"]
    forms = list(found[0]["near"])

    def cells(rows: list[Any]) -> list[str]:
        def rate(form: str, head: str, place: int) -> str:
            return mean_percent(row["near"][form][head][place] / row["images"] for row in rows)

        return [
            f"{rate(form, 'undefended', 0)} → {rate(form, 'purified', 0)} ({rate(form, 'purified', 1)})"
            for form in forms
        ]

    rows = [[row["model"], *cells([row])] for row in found]
    return markdown(["ASR (PA)", *forms], [*rows, ["**all**", *cells(found)]])


CONTROLS = {"clean_hat_0": "clean for the demo, seed 0", "clean_hat_1": "clean for the demo, seed 1"}


@table("false-alarms")
def _(records: Records) -> str:
    rows: list[list[str]] = []
    for row in records.file("false_alarms")["rows"]:
        best = Score(*row["scores"][0])
        name = CONTROLS.get(row["model"], row["model"])
        rows.append([str(row["classes"]), name, str(row["seed"]), f"{best.score:.1f} ({best.name})"])
    threshold = f"highest evidence (threshold {records.threshold:.1f})"
    return markdown(["classes", "model", "seed of the shots", threshold], rows)


@table("domain-shift")
def _(records: Records) -> str:
    keys = ("ca", "asr", "asr_floor", "pa", "target_ca")
    rows = [
        [row["suspect"], row["shift"], *(change(row["before"], row["after"], key) for key in keys)]
        for row in records.rows("domain_shift")
    ]
    return markdown(["suspect", "shift", "CA", "ASR", "floor", "PA", "target CA"], rows)


@table("two-targets")
def _(records: Records) -> str:
    rows: list[list[str]] = []
    for row in records.rows("two_targets"):
        before, after, single = row["before"], row["after"], row["after_single"]
        pairs = [change(before, after, key) for key in ("ca", "asr")]
        more = [change(before, after, key) for key in ("pa", "target_ca")]
        one = f"{cell(single, 'asr')} / {cell(single, 'target_ca')}"
        rows.append([f"{row['trigger']} → {row['target']}", *pairs, cell(after, "asr_floor"), *more, one])
    heads = ["trigger", "CA", "ASR", "floor", "PA", "target CA", "one weight: ASR / target CA"]
    return markdown(heads, rows)


@table("gate-ablation")
def _(records: Records) -> str:
    found = records.file("gate_ablation")["rows"]
    suspects = list(dict.fromkeys(row["suspect"] for row in found))
    rows: dict[str, list[str]] = {}
    for row in found:
        asr = mean_percent([row["asr"]], ASR_DIGITS)
        kept = [mean_percent([row[key]]) for key in ("target_ca", "target_ca_at_0.003", "target_ca_at_0.01")]
        rows.setdefault(row["form"], [row["form"]]).append(f"{asr} / {kept[0]}; {kept[1]}, {kept[2]}")
    return markdown(["gate", *suspects], list(rows.values()))


@table("demo")
def _(records: Records) -> str:
    rows: list[list[str]] = []
    for row in records.rows("demo"):
        before, after, reference = row["before"], row["after"], row.get("reference")
        first, second = (Score(*score) for score in row["scores"][:2])
        name = row["model"] if reference else f"{row['model']}, one look"
        pairs = {
            key: f"{mean_percent([before.value(key)])} → {mean_percent([after.value(key)])}"
            for key in ("ca", "asr", "pa", "target_ca")
        }
        pa = f"{pairs['pa']} ({cell(reference, 'pa')})"
        evidence = f"{first.score:.1f} ({second.score:.1f})"
        named = ", ".join(row["targets_suspected"])
        cells = [pairs["ca"], pairs["asr"], cell(after, "asr_floor"), pa, pairs["target_ca"]]
        rows.append([name, str(row["seed"]), named, evidence, *cells])
    heads = ["model", "seed", "target named", "evidence (second)", "CA", "ASR", "floor", "PA (clean model)"]
    return markdown([*heads, "CA of the target class"], rows)
