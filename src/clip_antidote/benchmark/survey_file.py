"""Surveys of a population in one small file, to be kept in a repository."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from clip_antidote.benchmark.population import ModelRecord, read_population
from clip_antidote.benchmark.records import compact
from clip_antidote.benchmark.surveys import SurveyRecord, as_tensors, read_surveys
from clip_antidote.detection.statistics import STATISTICS
from clip_antidote.errors import DataError
from clip_antidote.files import atomic_path, write_text

SURVEYS, MANIFEST = "surveys.safetensors", "models.jsonl"


def keep_population(out: Path, records: Path) -> tuple[int, int]:
    """Adds what is known of a population to the kept records; what is of the same name is replaced.

    Args:
        out: Folder of the population.
        records: Folder of the records.

    Returns:
        How many models and surveys are kept now.
    """
    models = {**read_population(records), **read_population(out)}
    surveys = {**load_surveys(records / SURVEYS), **read_surveys(out)}
    records.mkdir(parents=True, exist_ok=True)
    lines = [compact(models[name].model_dump(mode="json", exclude_none=True)) for name in sorted(models)]
    write_text(records / MANIFEST, "".join(line + "\n" for line in lines))
    save_surveys(records / SURVEYS, [surveys[key] for key in sorted(surveys)])
    return len(models), len(surveys)


def read_kept(records: Path) -> tuple[dict[str, ModelRecord], dict[tuple[str, str], SurveyRecord]]:
    """Reads what `keep_population` wrote.

    Raises:
        DataError: There is nothing.
    """
    models, surveys = read_population(records), load_surveys(records / SURVEYS)
    if not surveys:
        raise DataError(f"there are no surveys in {records}; run `clip-antidote benchmark survey` and `keep` first")
    return models, surveys


def save_surveys(path: Path, surveys: Iterable[SurveyRecord]) -> None:
    """Writes surveys as half-precision tensors [statistics, classes]; the rest is in the file's metadata.

    Class names are listed once, a survey has their indices.
    """
    surveys = list(surveys)
    names = sorted({name for survey in surveys for name in survey.classes})
    place = {name: i for i, name in enumerate(names)}
    facts, tensors = {}, {}
    for survey in surveys:
        key = f"{survey.model}|{survey.look}"
        tensors[key] = torch.stack([as_tensors(survey.values)[name] for name in STATISTICS]).half()
        tensors[f"{key}|classes"] = torch.tensor([place[name] for name in survey.classes], dtype=torch.int16)
        facts[key] = [survey.shots, survey.target, survey.further, survey.seconds]
    metadata = {"statistics": compact(list(STATISTICS)), "classes": compact(names), "facts": compact(facts)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))


def load_surveys(path: Path) -> dict[tuple[str, str], SurveyRecord]:
    """Reads what `save_surveys` wrote, by model and look; nothing where there is no file.

    Raises:
        DataError: It is not such a file.
    """
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            known = {name: json.loads(text) for name, text in file.metadata().items()}
            return {
                (record.model, record.look): record
                for key, facts in known["facts"].items()
                for record in [_record(key, facts, known, file.get_tensor(key), file.get_tensor(f"{key}|classes"))]
            }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not hold surveys as this version writes them; remove it or survey again"
        ) from error


def _record(
    key: str, facts: list[object], known: dict[str, list[str]], values: torch.Tensor, classes: torch.Tensor
) -> SurveyRecord:
    model, look = key.split("|")
    shots, target, further, seconds = facts
    return SurveyRecord.model_validate(
        {
            "model": model,
            "look": look,
            "shots": shots,
            "classes": [known["classes"][i] for i in classes.tolist()],
            "target": target,
            "further": further,
            "values": {
                name: [None if math.isnan(x) else x for x in row]
                for name, row in zip(known["statistics"], values.float().tolist(), strict=True)
            },
            "seconds": seconds,
        }
    )
