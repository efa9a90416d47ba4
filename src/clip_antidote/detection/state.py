"""Keeping the result of stage 1 on disk, so that an interrupted purification goes on after it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from clip_antidote.config import Record
from clip_antidote.detection.scores import ClassScore
from clip_antidote.detection.search import SearchResult, TargetSource
from clip_antidote.detection.verdict import Verdict
from clip_antidote.errors import ClipAntidoteError, DataError
from clip_antidote.files import remove_quietly, write_json
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.views import Observation
from clip_antidote.outputs import result_folder
from clip_antidote.progress import tell
from clip_antidote.triggers import load_trigger


class _KeptScore(Record):
    label: int
    alignment: float
    inversion: float | None
    score: float
    distance: float | None


class _KeptDummy(NamedTuple):
    family: str
    target: int
    flip_rate: float | None
    size: float | None


class _Kept(Record):
    """The content of `search.json`; the triggers lie in numbered folders beside it."""

    targets: tuple[int, ...]
    guarded: tuple[int, ...]
    dummies: tuple[_KeptDummy, ...]
    scores: tuple[_KeptScore, ...]
    verdict: Verdict | None


def save_search(result: SearchResult, folder: Path) -> None:
    """Writes a search result, whole or not at all."""
    with result_folder(folder, "search state") as temporary:
        dummies = []
        for number, dummy in enumerate(result.dummies):
            dummy.trigger.save(temporary / str(number))
            dummies.append([dummy.family, dummy.target, dummy.flip_rate, dummy.size])
        record = {
            "targets": result.targets,
            "guarded": result.guarded,
            "dummies": dummies,
            "scores": [asdict(s) for s in result.scores],
            "verdict": result.verdict and result.verdict.model_dump(mode="json"),
        }
        write_json(temporary / "search.json", record)


def load_search(folder: Path, classes: int) -> SearchResult | None:
    """Reads what `save_search` wrote, None where there is nothing.

    Args:
        folder: The folder.
        classes: Number of classes.

    Raises:
        DataError: The folder holds something else, or a search among other classes.
    """
    file = folder / "search.json"
    if not file.exists():
        return None
    try:
        kept = _Kept.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no result of a search") from error
    scored = [score.label for score in kept.scores]  # those of the shortlist, which may be fewer than all
    labels = {*scored, *kept.targets, *kept.guarded, *(dummy.target for dummy in kept.dummies)}
    if len(set(scored)) != len(scored) or not labels <= set(range(classes)):
        raise DataError(f"{file} is the result of a search among other classes")
    dummies = tuple(
        Dummy(load_trigger(folder / str(number)), dummy.family, dummy.target, dummy.flip_rate, dummy.size)
        for number, dummy in enumerate(kept.dummies)
    )
    scores = tuple(ClassScore(**score.model_dump()) for score in kept.scores)
    return SearchResult(kept.targets, kept.guarded, dummies, scores, kept.verdict)


def kept_search(source: TargetSource, folder: Path) -> TargetSource:
    """Keeps what a source finds in a folder, and takes it from there where it is.

    What cannot be used, such as a folder that was cut off, is removed and found again; this is said.

    Args:
        source: The source.
        folder: Belongs to this very model, shots and settings.
    """

    def take(seen: Observation, config: InversionConfig, seed: int) -> SearchResult:
        found = None
        try:
            found = load_search(folder, len(seen.classes))
        except ClipAntidoteError as error:
            tell(f"the kept search cannot be used ({error}); it starts again")
        if found is None:
            found = source(seen, config, seed)
            remove_quietly(folder)
            save_search(found, folder)
        return found

    return take
