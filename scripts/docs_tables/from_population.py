"""Tables from the records of the population: which models, and how well backdoors are found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from source import Records, averages, change, table

from clip_antidote.benchmark.detection_tables import (
    apart_table,
    attacks_table,
    groups_table,
    looks_table,
    main_look,
    rules_table,
    several_table,
)
from clip_antidote.benchmark.judging import Judgment, read_judgments
from clip_antidote.benchmark.population import ModelRecord, read_population
from clip_antidote.benchmark.tables import ASR_DIGITS, markdown, mean_percent
from clip_antidote.detection.evidence import embedded_evidence
from clip_antidote.detection.verdict import ALARM
from clip_antidote.evaluation.metrics import Metrics

FOLDER = "population"


def judged(records: Records) -> list[Judgment]:
    """The judgments of all looks."""
    return read_judgments(records.folder / FOLDER)


@table("population")
def population(records: Records) -> str:
    """The models by their base."""
    models: dict[str, list[ModelRecord]] = {}
    for record in read_population(records.folder / FOLDER).values():
        models.setdefault(record.base, []).append(record)
    rows = []
    for base, own in sorted(models.items()):
        passed = [m for m in own if m.kind == "poisoned" and m.sound]
        failed = sum(not m.sound for m in own)
        rows.append(
            [
                base,
                own[0].tower,
                mean_percent([m.measured.ca.value for m in own if m.kind == "base"]),
                str(sum(m.kind != "poisoned" for m in own)),
                str(len(passed)),
                str(failed),
                ", ".join(f"{attack} {n}" for attack, n in sorted(Counter(m.attack or "" for m in passed).items())),
            ]
        )
    return markdown(["base", "tower", "CA", "clean", "poisoned", "failed their check", "attacks"], rows)


@table("detection-rules")
def rules(records: Records) -> str:
    """Every rule on the same models."""
    return rules_table(main_look(judged(records)))


@table("detection-towers")
def towers(records: Records) -> str:
    """Per kind of image tower."""
    return groups_table(main_look(judged(records)), lambda j: j.tower, "tower", ALARM)


@table("detection-attacks")
def attacks(records: Records) -> str:
    """Per attack."""
    return attacks_table(main_look(judged(records)), ALARM)


@table("detection-looks")
def looks(records: Records) -> str:
    """Per number of classes and shots."""
    return looks_table(judged(records), ALARM)


@table("detection-apart")
def apart(records: Records) -> str:
    """The towers that were kept apart."""
    return apart_table(judged(records), ALARM)


def _means(rows: list[dict[str, Any]]) -> list[str]:
    """Means over poisoned models; of the ASR the largest too, of the target class only where it has images."""
    before, after = [row["before"] for row in rows], [row["after"] for row in rows]

    def both(key: str, digits: int = 1) -> str:
        return f"{averages(before, key)[0]} → {mean_percent((m.value(key) for m in after), digits)}"

    largest = 100 * max(m.value("asr") for m in after)
    named = sum(row["target"] in row["named"] for row in rows)
    guarded = sum(row["target"] in row["guarded"] for row in rows)
    return [
        f"**mean of {len(rows)}**",
        f"{named} rightly",
        f"{guarded}",
        "",
        f"{both('asr', ASR_DIGITS)} (largest {largest:.2f})",
        both("pa"),
        both("ca"),
        both("mean_per_class_recall"),
        both("target_ca"),
        "",
    ]


@table("detection-several")
def several(records: Records) -> str:
    """Models with several targets: which are named, which guarded."""
    return several_table(main_look(judged(records)))


@table("population-purified")
def purified(records: Records) -> str:
    """What the default purification leaves, model by model."""
    rows = []
    found = [row for model in records.rows(f"{FOLDER}/purified") for row in by_target(model)]
    for row in found:
        before, after = row["before"], row["after"]
        rows.append(
            [
                row["model"],
                ", ".join(row["named"]) or "nobody",
                "yes" if row["target"] in row["guarded"] else "no" if row["target"] else "–",
                "final and inner" if row.get("inner") else "final",
                *(change(before, after, key) for key in ("asr", "pa", "ca")),
                f"{100 * before.mean_per_class_recall:.1f} → {100 * after.mean_per_class_recall:.1f}",
                change(before, after, "target_ca"),
                f"{row['seconds']:.0f}",
            ]
        )
    rows.append(_means([row for row in found if row["target"] is not None]))
    head = [
        "model and target",
        "named",
        "target guarded",
        "gate reads",
        "ASR",
        "PA",
        "CA",
        "recall",
        "target CA",
        "s",
    ]
    return markdown(head, rows)


def by_target(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row of a model with several targets for each of them; of others the row itself."""
    further = row.get("further", {})
    yield row
    for target, rates in further.items():
        measured = {name: Metrics.from_counts(counts) for name, counts in rates.items()}
        yield {**row, "model": f"{row['model']}: {target}", "target": target, **measured}


@table("detection-weights")
def weights(records: Records) -> str:
    """The evidence that the package comes with."""
    fitted = embedded_evidence()
    rows = [[f"`{name}`", f"{weight:.2f}"] for name, weight in fitted.weights.items()]
    return markdown(["statistic", "weight"], [*rows, ["offset b", f"{fitted.offset:.2f}"]])
