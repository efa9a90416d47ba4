"""Numbers of papers beside a grid: quoted with their source, never measured here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.tables import markdown
from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.evaluation.metric_table import MISSING

FILE = "published.json"

CONVENTIONS = {
    "other classes": "over triggered images of all classes but the target, as `asr` here",
    "all images": "over triggered images of all classes, as `asr_all` here",
    "not said": "the source does not say over which images",
}
"""How a quoted attack success rate is counted."""


class Published(Config):
    """What a paper reports of a defense.

    Attributes:
        defense: The defense.
        attack: The attack, or what the numbers are a mean over.
        backbone: Image tower and data.
        ca: Clean accuracy after the defense, in percent.
        asr: Attack success after it, in percent.
        asr_counts: Over which images ASR is counted, see `CONVENTIONS`.
        source: Where the numbers stand.
    """

    defense: str = Field(min_length=1)
    attack: str = Field(min_length=1)
    backbone: str = Field(min_length=1)
    ca: float | None = Field(None, ge=0, le=100)
    asr: float | None = Field(None, ge=0, le=100)
    asr_counts: Literal["other classes", "all images", "not said"] = "not said"
    source: str = Field(min_length=1)


def write_published(folder: Path, rows: Sequence[Published]) -> None:
    """Keeps the numbers of a grid in its folder; nothing where it has none."""
    if rows:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / FILE, [row.model_dump(mode="json") for row in rows])


def read_published(folder: Path) -> list[Published]:
    """Reads them back; empty where there are none.

    Raises:
        DataError: The file is broken.
    """
    file = folder / FILE
    if not file.exists():
        return []
    try:
        return [Published.model_validate(row) for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise DataError(
            f"{file} does not hold published numbers; remove it, and `benchmark run` writes it"
        ) from error


def published_table(rows: Sequence[Published]) -> str:
    """The numbers of papers, in percent, with backbone, way of counting and source; empty without any."""
    cells = [
        [
            row.defense,
            row.attack,
            row.backbone,
            *(MISSING if value is None else f"{value:g}" for value in (row.ca, row.asr)),
            row.asr_counts,
            row.source,
        ]
        for row in rows
    ]
    heads = ["published, not measured here", "attack", "backbone", "CA", "ASR", "ASR counts", "source"]
    return markdown(heads, cells) if rows else ""
