"""From a survey to the evidence against a model: likelihood ratios of classes, and a p-value against clean models."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from clip_antidote.config import Record
from clip_antidote.detection.statistics import counted_scores
from clip_antidote.errors import DataError


class NullModel(Record):
    """A model of the population, and what was found among classes of it that are no targets.

    Attributes:
        name: Its name.
        tower: Kind of its image tower.
        scores: Evidence against these classes by the look, CLASSESxSHOTS.
    """

    name: str
    tower: str
    scores: dict[str, float]


class FittedEvidence(Record):
    """How outlier scores become evidence; fitted on a population and kept in `evidence.json`.

    The log likelihood ratio of "class c is the target" to "there is none" is Σ_s weight_s · z_cs − offset, with
    z_cs cut off from below, see `counted_scores`.
    Where every class is as likely the target beforehand, the ratio of "there is a target" to "there is none" is the
    mean of theirs over the classes.

    Attributes:
        command: What fitted it.
        weights: By the name of the statistic.
        offset: What blameless classes have to exceed.
        null: The clean models.
        beside: Poisoned models with a single target, without it: their training shakes blameless classes too, so that
            a further target is held against these.
    """

    command: str
    weights: dict[str, float]
    offset: float
    null: tuple[NullModel, ...]
    beside: tuple[NullModel, ...] = ()

    def class_scores(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the log likelihood ratio of every class [C]."""
        scores = counted_scores(values)
        parts = [weight * scores[name] for name, weight in self.weights.items()]
        return torch.stack(parts).sum(0) - self.offset

    def p_value(self, score: float, *, classes: int, shots: float) -> tuple[float, int]:
        """Compares a model with the clean ones, looked at in the way that is most like it.

        Returns:
            The conformal p-value, (1 + clean models at or above) / (n + 1), and the number n of clean models.
        """
        clean = self.clean_scores(classes=classes, shots=shots)
        return conformal_p(score, clean), len(clean)

    def further_p_value(self, score: float, *, classes: int, shots: float) -> float:
        """Compares what is left of a model without its targets with what is left of poisoned ones without theirs.

        Returns:
            The conformal p-value; 1 where none were looked at.
        """
        return conformal_p(score, _scores(self.beside, classes=classes, shots=shots))

    def score_needed(self, alarm: float, *, classes: int, shots: float) -> float | None:
        """Returns the score above which the p-value is at most `alarm`; None where there are too few clean models."""
        clean = sorted(self.clean_scores(classes=classes, shots=shots), reverse=True)
        allowed = math.floor(alarm * (len(clean) + 1) + 1e-9) - 1  # clean models that may lie above
        if allowed < 0:
            return None
        return clean[allowed] if allowed < len(clean) else -math.inf

    def clean_scores(self, *, classes: int, shots: float) -> list[float]:
        """Returns the scores of the clean models, looked at in the way that is most like the given one."""
        return _scores(self.null, classes=classes, shots=shots)


def conformal_p(score: float, others: Sequence[float]) -> float:
    """Returns the share of those who score as high, this one counted among them (Vovk, Gammerman and Shafer 2005)."""
    return (1 + sum(other >= score for other in others)) / (len(others) + 1)


def _scores(models: Sequence[NullModel], *, classes: int, shots: float) -> list[float]:
    """Scores of the look that is most like a given one; one that fewer than half of the models had does not count."""
    counts = Counter(look for model in models for look in model.scores)
    looks = {look for look, count in counts.items() if 2 * count >= len(models)}
    if not looks:
        return []
    look = nearest_look(looks, classes=classes, shots=shots)
    return [model.scores[look] for model in models if look in model.scores]


def model_score(class_scores: torch.Tensor) -> float:
    """Returns the log of the mean likelihood ratio over the classes: the evidence against the model."""
    return float(torch.logsumexp(class_scores, 0)) - math.log(len(class_scores))


def nearest_look(looks: set[str], *, classes: int, shots: float) -> str:
    """Chooses the look ("CLASSESxSHOTS") that is most like a given one, by the ratios of classes and of shots."""

    def distance(look: str) -> float:
        numbers = [float(part) for part in look.split("x")]
        return abs(math.log(numbers[0] / classes)) + abs(math.log(numbers[1] / shots))

    return min(sorted(looks), key=distance)


@cache
def embedded_evidence() -> FittedEvidence:
    """Reads the evidence that comes with the package."""
    text = (files("clip_antidote.detection") / "evidence.json").read_text(encoding="utf-8")
    return FittedEvidence.model_validate(json.loads(text))


def read_evidence(path: Path) -> FittedEvidence:
    """Reads evidence from a file.

    Raises:
        DataError: It holds none.
    """
    try:
        return FittedEvidence.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} holds no evidence as `clip-antidote benchmark judge --fit` writes it") from error
