"""Surveys of the models of a population: what the evidence is fitted to and judged on."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from clip_antidote.benchmark.population import LookConfig, ModelRecord, read_population
from clip_antidote.benchmark.records import compact
from clip_antidote.benchmark.store import append_line, claim_work, clear_claims, read_typed_lines
from clip_antidote.config import Record
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.survey import Survey, survey_classes
from clip_antidote.errors import UsageError
from clip_antidote.models import load_model
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe

DIGITS = 4
"""Digits that are kept of every statistic."""


class SurveyRecord(Record):
    """What a survey of one model found.

    Attributes:
        model: Name of the model.
        look: Name of the look.
        shots: Images per class.
        classes: Class names.
        target: Index of the target class; None where there is none, or it is not in the list.
        further: Indices of other targets.
        values: Statistics by name, in the order of the classes; None where one was not measured.
        seconds: How long the survey took.
    """

    model: str
    look: str
    shots: int
    classes: tuple[str, ...]
    target: int | None
    further: tuple[int, ...] = ()
    values: dict[str, list[float | None]]
    seconds: float


def survey_population(
    out: Path, data: str, looks: tuple[LookConfig, ...], *, device: str = "cpu", names: Collection[str] = ()
) -> Iterator[SurveyRecord]:
    """Surveys the models of a population that were not surveyed yet; several processes may share the work.

    Poisoned models that failed their implant check are left out.

    Args:
        out: Folder of the population; `surveys.jsonl` in it takes the results.
        data: Problem folder; clean images are drawn from its train split.
        looks: The ways to look at every model.
        device: Where to compute.
        names: Models to survey; all by default.

    Raises:
        UsageError: No model of such a name was made.
    """
    if missing := sorted({*names} - read_population(out).keys()):
        raise UsageError(f"{out} has no model '{missing[0]}'; make it first, by `clip-antidote benchmark population`")
    for look in looks:
        known = read_surveys(out)
        for record in read_population(out).values():
            wanted = record.sound and (not names or record.name in names)
            if not wanted or (look.without_target and record.kind != "poisoned") or (record.name, look.name) in known:
                continue
            with claim_work(out, f"survey-{record.name}-{look.name}") as ours:
                if not ours or (record.name, look.name) in read_surveys(out):
                    continue
                found = survey_model(f"local-dir:{out / 'models' / record.name}", record, data, look, device=device)
                append_line(out / "surveys.jsonl", compact(found.model_dump(mode="json")))
            yield found
    clear_claims(out)


def survey_model(spec: str, record: ModelRecord, data: str, look: LookConfig, *, device: str = "cpu") -> SurveyRecord:
    """Surveys one model in one way; seeds follow from the names of model and look."""
    start = time.perf_counter()
    shots, seed = draw_shots(record, data, look)
    model, config = load_model(spec, device=device), CBPTConfig(seed=seed)
    with model.evaluating():
        survey = survey_classes(observe(model, shots, config), config.inversion.survey, seed=seed)
    return SurveyRecord(
        model=record.name,
        look=look.name,
        shots=look.shots,
        classes=shots.classes,
        target=shots.classes.index(record.target) if record.target in shots.classes else None,
        further=tuple(shots.classes.index(name) for name in record.further if name in shots.classes),
        values=rounded(survey),
        seconds=round(time.perf_counter() - start, 1),
    )


def draw_shots(record: ModelRecord, data: str, look: LookConfig) -> tuple[LabelledImages, int]:
    """Draws the clean images that a model is looked at with; returns the seed of the look too."""
    seed = zlib.crc32(f"{record.name} {look.name}".encode())
    shots = load_images(data, split="train", shots=look.shots, seed=seed)
    return restrict(shots, draw_classes(shots.classes, record.targets, look, seed=seed)), seed


def draw_classes(classes: tuple[str, ...], targets: tuple[str, ...], look: LookConfig, *, seed: int) -> list[str]:
    """Draws a class list, in the order of all classes; targets that are not kept out are in it."""
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed)).tolist()
    others = [classes[i] for i in order if classes[i] not in targets]
    names = others if look.without_target else [*targets, *others]
    chosen = set(names[: look.classes])
    return [name for name in classes if name in chosen]


def restrict(images: LabelledImages, names: list[str]) -> LabelledImages:
    """Returns the images of some classes alone, labelled in the order of `names`."""
    place = torch.full((len(images.classes),), -1)
    place[[images.classes.index(name) for name in names]] = torch.arange(len(names))
    labels = place[images.labels]
    kept = images.subset((labels >= 0).nonzero().flatten())
    return replace(kept, labels=labels[labels >= 0], classes=tuple(names))


def rounded(survey: Survey) -> dict[str, list[float | None]]:
    """Returns the statistics with as many digits as are kept."""
    return {
        name: [None if math.isnan(x) else float(f"{x:.{DIGITS}g}") for x in values.tolist()]
        for name, values in survey.values.items()
    }


def as_tensors(values: Mapping[str, Sequence[float | None]]) -> dict[str, torch.Tensor]:
    """Returns kept statistics as tensors; NaN where one was not measured."""
    return {name: torch.tensor([math.nan if x is None else x for x in column]) for name, column in values.items()}


def read_surveys(out: Path) -> dict[tuple[str, str], SurveyRecord]:
    """Reads `surveys.jsonl`, by model and look.

    Raises:
        DataError: A line is no such record.
    """
    records = read_typed_lines(out / "surveys.jsonl", SurveyRecord)
    return {(record.model, record.look): record for record in records}
