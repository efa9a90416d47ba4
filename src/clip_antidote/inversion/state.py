"""Keeping the result of stage 1 on disk, so that an interrupted purification goes on after it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from clip_antidote.files import write_json
from clip_antidote.inversion.search import ClassScore, Dummy, SearchResult
from clip_antidote.outputs import result_folder
from clip_antidote.triggers import load_trigger


def save_search(result: SearchResult, folder: Path) -> None:
    """Writes a search result, whole or not at all."""
    with result_folder(folder, "search state") as temporary:
        dummies = []
        for number, dummy in enumerate(result.dummies):
            dummy.trigger.save(temporary / str(number))
            dummies.append([dummy.family, dummy.target, dummy.flip_rate, dummy.size])
        record = {"targets": result.targets, "dummies": dummies, "scores": [asdict(s) for s in result.scores]}
        write_json(temporary / "search.json", record)


def load_search(folder: Path) -> SearchResult | None:
    """Reads what `save_search` wrote, None where there is nothing."""
    file = folder / "search.json"
    if not file.exists():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    dummies = [
        Dummy(load_trigger(folder / str(number)), family, target, flip_rate, size)
        for number, (family, target, flip_rate, size) in enumerate(record["dummies"])
    ]
    return SearchResult(tuple(record["targets"]), dummies, [ClassScore(**score) for score in record["scores"]])
