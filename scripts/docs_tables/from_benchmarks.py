"""Tables of the documentation that come from the scripts in `benchmarks/`, and from the demo."""

from __future__ import annotations

from statistics import mean

from source import Records, cell, change, table

from clip_antidote.benchmark.records import Score
from clip_antidote.benchmark.tables import ASR_DIGITS, markdown, mean_percent


@table("second-look-ways")
def _(records: Records) -> str:
    found = records.file("second_look")["rows"]
    forms = {
        form: (mean(row["validation"][form] for row in found), [row["test"][form] for row in found])
        for form in found[0]["test"]
    }
    rows: list[list[str]] = []
    for form, (validation, test) in sorted(forms.items(), key=lambda item: -item[1][0]):
        label = f"**{form}**" if not rows else form
        rows.append([label, mean_percent([validation]), mean_percent(test), *(mean_percent([r]) for r in test)])
    for key, label in (("one look", "one look"), ("all views", "mean of the 21 views")):
        test = [row["clean"][f"clean model, {key}"] for row in found]
        rows.append([f"clean model, {label}", "", mean_percent(test), *(mean_percent([r]) for r in test)])
    return markdown(["way", "validation, dummies", "test", *(row["suspect"] for row in found)], rows)


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
