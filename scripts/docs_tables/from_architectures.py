"""Tables of docs/models.md, from the lines that `benchmarks/architectures.py` keeps."""

from __future__ import annotations

import json
from typing import Any

from source import Records, table

from clip_antidote.benchmark.tables import markdown

Row = dict[str, Any]


def read(records: Records) -> list[Row]:
    """A row per architecture."""
    text = (records.folder / "architectures.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def difference(row: Row, key: str) -> str:
    """A difference of unit features, 0 where they are the same bit for bit."""
    return f"{row[key]:.0e}" if row[key] else "0"


def outcome(row: Row) -> str:
    """What the purification of a few steps came to."""
    if row["status"] != "runs":
        return row["status"]
    return f"purified{', gate' if row['gate'] else ''}{'; tokenizer: stand-in' if row['tokenizer'] != 'own' else ''}"


@table("architectures-run")
def _(records: Records) -> str:
    run = [row for row in read(records) if row["status"] in ("runs", "differs", "failed")]
    rows = []
    for row in sorted(run, key=lambda row: (row["family"].lower(), row["parameters"])):
        figures = ["–", "–", "–"]
        if row["status"] != "failed":
            figures = [difference(row, "image"), difference(row, "text"), f"{row['memory']:.1f} GiB"]
        rows.append([row["family"], row["name"], f"{row['parameters'] / 1e6:.0f} M", *figures, outcome(row)])
    head = ["family", "architecture", "parameters", "image features", "text features", "memory", "result"]
    return markdown(head, rows)


@table("architectures-not-run")
def _(records: Records) -> str:
    found = read(records)
    rows = []
    for family in sorted({row["family"] for row in found if row.get("reason") in ("time", "size")}, key=str.lower):
        of = [row for row in found if row["family"] == family]
        cells = [", ".join(row["name"] for row in of if row.get("reason") == reason) for reason in ("time", "size")]
        rows.append([family, *(names or "–" for names in cells)])
    return markdown(["family", "not run: time", "not run: size"], rows)


@table("architectures-refused")
def _(records: Records) -> str:
    refused = [row for row in read(records) if row["status"] == "refused"]
    rows = []
    for family in sorted({row["family"] for row in refused}):
        of = [row for row in refused if row["family"] == family]
        rows.append([family, ", ".join(row["name"] for row in of), of[0]["reason"]])
    return markdown(["family", "architectures", "the sentence (of the first)"], rows)
