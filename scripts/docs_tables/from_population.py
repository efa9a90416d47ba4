"""Tables from the records of the population: which models, and what purification leaves in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from source import Records, table

from clip_antidote.benchmark.population import ModelRecord, read_population
from clip_antidote.benchmark.tables import ASR_DIGITS, markdown, mean_percent
from clip_antidote.evaluation.metrics import Metrics

FOLDER = "population"

RATES = {
    "asr": "ASR (base)",
    "asr_floor": "floor",
    "pa": "PA (base)",
    "ca": "CA",
    "mean_per_class_recall": "recall",
    "target_ca": "target CA (base)",
}
"""Heads of the columns of `rate_cells`."""

WITH_BASE = ("asr", "pa", "target_ca")
"""Rates that stand beside those of the base under the same trigger."""


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


@table("population-purified")
def purified(records: Records) -> str:
    """What the default purification leaves, model by model."""
    return purified_table(records, "purified")


@table("population-blind")
def blind(records: Records) -> str:
    """The same of triggers that nothing was chosen on."""
    return purified_table(records, "blind")


@table("population-purified-groups")
def purified_groups(records: Records) -> str:
    """The same by attack, then by kind of tower."""
    found = [row for row in purified_rows(records, "purified") if row["target"] is not None]
    groups = [
        (name, [row for row in found if row[key] == name])
        for key in ("attack", "tower")
        for name in sorted({row[key] for row in found})
    ]
    rows = [
        [name, str(len(own)), *named_and_guarded(own), *rate_cells(own, largest=True)]
        for name, own in [*groups, ("**all**", found)]
    ]
    return markdown(["", "targets", "named", "guarded", *RATES.values()], rows)


def purified_rows(records: Records, name: str) -> list[dict[str, Any]]:
    """The rows of a record of purified models, one per target, with what the base does under the same trigger."""
    models = read_population(records.folder / FOLDER)
    return [
        {**row, "base": record.reference if row["target"] == record.target else None}
        for model in records.rows(f"{FOLDER}/{name}")
        for record in [models[model["model"]]]
        for row in by_target(model)
    ]


def purified_table(records: Records, name: str) -> str:
    """A row per model and target, and their means."""
    found = purified_rows(records, name)
    rows = [
        [
            row["model"],
            ", ".join(row["named"]) or "nobody",
            "yes" if row["target"] in row["guarded"] else "no" if row["target"] else "–",
            *rate_cells([row]),
            f"{row['seconds']:.0f}",
        ]
        for row in found
    ]
    aimed = [row for row in found if row["target"] is not None]
    rows.append([f"**mean of {len(aimed)}**", *named_and_guarded(aimed), *rate_cells(aimed, largest=True), ""])
    return markdown(["model and target", "named", "target guarded", *RATES.values(), "s"], rows)


def named_and_guarded(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How many targets are named, and how many guarded."""
    named = sum(row["target"] in row["named"] for row in rows)
    return [f"{named} rightly", str(sum(row["target"] in row["guarded"] for row in rows))]


def rate_cells(rows: Sequence[dict[str, Any]], *, largest: bool = False) -> list[str]:
    """Means of the rates before and after, of some with the base's under the same trigger in brackets."""
    cells = []
    for key in RATES:
        digits = ASR_DIGITS if key.startswith("asr") else 1
        before = mean_percent(row["before"].value(key) for row in rows)
        text = f"{before} → {mean_percent((row['after'].value(key) for row in rows), digits)}"
        if largest and key == "asr":
            text += f", largest {100 * max(row['after'].value(key) for row in rows):.{ASR_DIGITS}f}"
        if key in WITH_BASE:
            text += f" ({mean_percent(row['base'].value(key) for row in rows if row['base'] is not None)})"
        cells.append(text)
    return cells


def by_target(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row of a model with several targets for each of them; of others the row itself."""
    further = row.get("further", {})
    yield row
    for target, rates in further.items():
        measured = {name: Metrics.from_counts(counts) for name, counts in rates.items()}
        yield {**row, "model": f"{row['model']}: {target}", "target": target, **measured}
