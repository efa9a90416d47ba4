"""Keeping the result of stage 1 on disk, so that an interrupted purification goes on after it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from clip_antidote.files import write_json
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.scoring import ClassScore
from clip_antidote.inversion.search import SearchResult, TargetSource
from clip_antidote.inversion.views import Observation
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
    dummies = tuple(
        Dummy(load_trigger(folder / str(number)), family, target, flip_rate, size)
        for number, (family, target, flip_rate, size) in enumerate(record["dummies"])
    )
    return SearchResult(tuple(record["targets"]), dummies, tuple(ClassScore(**score) for score in record["scores"]))


def kept_search(source: TargetSource, folder: Path) -> TargetSource:
    """Keeps what a source finds in a folder, and takes it from there where it is.

    Args:
        source: The source.
        folder: Belongs to this very model, shots and settings.
    """

    def take(seen: Observation, config: InversionConfig, seed: int) -> SearchResult:
        found = load_search(folder)
        if found is None:
            found = source(seen, config, seed)
            save_search(found, folder)
        return found

    return take
