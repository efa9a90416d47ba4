"""Tables of scores of images, from `benchmarks/image_scores.py`."""

from __future__ import annotations

from statistics import mean
from typing import Any

from source import Records, table

from clip_antidote.benchmark.tables import markdown, mean_percent


def measured(records: Records) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows by model, then by score."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for row in records.file("image_scores")["rows"]:
        out.setdefault(row["model"], {})[row["score"]] = row
    return out


@table("image-scores-models")
def _(records: Records) -> str:
    rows = []
    for name, scores in measured(records).items():
        first = next(iter(scores.values()))
        counts, called, views = first["clean"], first["called"], first["held_out_views"]
        kinds = [f"{counts.get(f'{split}, of the target', 0)}" for split in ("test", "validation", "train")]
        others = sum(count for kind, count in counts.items() if kind.endswith("of others"))
        held = " + ".join(map(str, views))
        rows.append([name, first["target"], *kinds, str(others), f"{called[0]} of {called[1]}", held])
    heads = ["model", "target", "test", "validation", "train, not a shot", "of other classes", "triggered, called"]
    return markdown([*heads, "held-out views, clean + dummies"], rows)


@table("image-scores")
def _(records: Records) -> str:
    found = measured(records)
    names = [name for name in next(iter(found.values())) if "[" not in name]
    rows = []
    for name in names:
        own = [scores[name] for scores in found.values()]
        rows.append([name, str(own[0]["encodings"]), *(_three(row) for row in own)])
    return markdown(["score", "encodings", *found], rows)


@table("image-scores-vit")
def _(records: Records) -> str:
    """The scores alone, on the ViT that has heads."""
    rows = [row for row in records.file("image_scores_vit")["rows"] if not {"[", ":"} & set(row["score"])]
    cells = [
        [row["score"], str(row["encodings"]), f"{row['auc']:.4f}"]
        + [mean_percent([row[key]]) for key in ("found_at_0.01", "found_at_0.05")]
        for row in rows
    ]
    return markdown(["score", "encodings", "AUC", "found at 1 %", "found at 5 %"], cells)


@table("image-scores-with-gate")
def _(records: Records) -> str:
    found = measured(records)
    gate = [scores["gate"] for scores in found.values()]
    rows = [["gate alone", *(_three(row) for row in gate)]]
    for name, row in next(iter(found.values())).items():
        if "with_gate" in row:
            rows.append([f"with {name}", *(_three(scores[name]["with_gate"]) for scores in found.values())])
    return markdown(["", *found], rows)


@table("image-scores-thresholds")
def _(records: Records) -> str:
    return _at(records, "held_out", with_shifts=False)


@table("image-scores-default")
def _(records: Records) -> str:
    return _at(records, "default", with_shifts=True)


def _at(records: Records, kind: str, *, with_shifts: bool) -> str:
    """What a threshold finds and stops, by score and model."""
    found = measured(records)
    rows = []
    for name in [name for name, row in next(iter(found.values())).items() if kind in row]:
        own = [scores[name][kind] for scores in found.values()]
        keys = ("false_alarms", "others", *(["shifted"] if with_shifts else []))
        cells = [
            f"{_tenth(one['found'])} / " + " / ".join(_whole(one[k]) if k in one else "–" for k in keys)
            for one in own
        ]
        shifts = [one["shifted"] for one in own if "shifted" in one]
        averages = [mean_percent(one[key] for one in own) for key in ("found", "false_alarms")]
        rows.append([name, *cells, *averages, mean_percent([mean(shifts)]) if shifts else ""])
    heads = ["mean found", "mean false alarms", "mean under blameless changes"]
    return markdown(["score", *found, *heads], rows)


@table("image-scores-layers")
def _(records: Records) -> str:
    found = measured(records)
    kinds = ("layer-discriminant", "mahalanobis", "ranks")
    rows = []
    for model, scores in found.items():
        for kind in kinds:
            parts = [(name, row["auc"]) for name, row in scores.items() if name.startswith(f"{kind}[")]
            cells = [f"{name[len(kind) + 1 : -1]} {auc:.3f}" for name, auc in parts]
            rows.append([model, kind, "; ".join(cells)])
    return markdown(["model", "score", "AUC by stage"], rows)


def _three(row: dict[str, Any]) -> str:
    """AUC, and what is found at 1 and 5 % false alarms."""
    return f"{row['auc']:.3f}; {_whole(row['found_at_0.01'])}, {_whole(row['found_at_0.05'])}"


def _tenth(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def _whole(share: float) -> str:
    return f"{100 * share:.0f}"
