"""Clean accuracy, attack success and recovery, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Self, TypedDict

import torch

from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metric_table import METRICS

ClassAccuracy = TypedDict("ClassAccuracy", {"class": str, "accuracy": float | None, "count": int})
"""Accuracy on the images of one class; None where there are none."""


@dataclass(frozen=True)
class Metrics:
    """What one classifier does on clean and on triggered test images.

    Attributes:
        ca: Clean accuracy, top-1 on images without trigger.
        asr: Attack success: triggered images of other classes that are called the target; of an attack that sends
            every class to another one, triggered images that are called what they are to become.
        asr_all: The same over triggered images of all classes, as some papers count it.
        asr_floor: The images of `asr` without their trigger that are called the same; what
            `asr` is where a trigger does nothing.
        pa: Triggered images, of all classes, that are called by their true class (recovery).
        target_ca: Clean accuracy on the images of the target class.
        target: Name of the target class.
        mean_per_class_recall: Clean accuracy of every class, averaged over the classes that have images; what `ca`
            would be with as many images of each. None without images.
    """

    ca: Rate
    asr: Rate | None = None
    asr_all: Rate | None = None
    asr_floor: Rate | None = None
    pa: Rate | None = None
    target_ca: Rate | None = None
    target: str | None = None
    mean_per_class_recall: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns values, intervals and counts of the rates that were measured, ready for JSON.

        Returns:
            For every rate NAME: `NAME` (share in [0, 1], None where there was no image),
            `NAME_interval` [low, high] and `NAME_count`; `mean_per_class_recall`; `target` where there is one.
        """
        values: dict[str, Any] = {}
        for metric in METRICS:
            rate: Rate | float | None = getattr(self, metric.key)
            if isinstance(rate, Rate):
                values[metric.key] = rate.value if rate.count else None  # JSON has no nan
                values[f"{metric.key}_interval"] = list(rate.interval)
                values[f"{metric.key}_count"] = rate.count
            elif not metric.counted:
                values[metric.key] = rate
        if self.target is not None:
            values["target"] = self.target
        return values

    def value(self, key: str) -> float | None:
        """The value of one metric, by its key; None where it was not measured or had no image."""
        rate: Rate | float | None = getattr(self, key)
        if isinstance(rate, Rate):
            return rate.value if rate.count else None
        return rate

    def to_counts(self) -> dict[str, list[int] | float]:
        """Returns [successes, count] of the rates that were measured: the shortest form all else follows from."""
        counts: dict[str, list[int] | float] = {}
        for metric in METRICS:
            rate: Rate | float | None = getattr(self, metric.key)
            if rate is not None:
                counts[metric.key] = [rate.successes, rate.count] if isinstance(rate, Rate) else rate
        return counts

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any], target: str | None = None) -> Self:
        """Reads what `to_counts` wrote.

        Raises:
            ValueError: It holds something else.
        """
        known = {metric.key: metric.counted for metric in METRICS}
        if "ca" not in counts or not counts.keys() <= known.keys():
            raise ValueError(f"these are no counts of {', '.join(known)}: {', '.join(counts)}")
        rates: dict[str, Any] = {key: Rate(*value) if known[key] else value for key, value in counts.items()}
        return cls(**rates, target=target)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` wrote; the successes follow from value and count."""
        rates: dict[str, Any] = {}
        for metric in METRICS:
            value, count = values.get(metric.key), values.get(f"{metric.key}_count")
            if not metric.counted:
                rates[metric.key] = value
            elif count is not None:
                rates[metric.key] = Rate(round((value or 0) * count), count)
        return cls(**rates, target=values.get("target"))


def _rate(hits: torch.Tensor) -> Rate:
    return Rate(int(hits.sum()), len(hits))


def _check(name: str, predictions: torch.Tensor, labels: torch.Tensor) -> None:
    if labels.ndim != 1 or predictions.shape != labels.shape:
        raise DataError(
            f"{name} predictions {tuple(predictions.shape)} do not fit labels {tuple(labels.shape)}; "
            "both must be vectors of one number per image"
        )


def compute_metrics(
    clean_predictions: torch.Tensor,
    labels: torch.Tensor,
    *,
    triggered_predictions: torch.Tensor | None = None,
    target: int | None = None,
    goals: torch.Tensor | None = None,
    classes: Sequence[str] | None = None,
) -> Metrics:
    """Compares predictions with labels.

    Args:
        clean_predictions: int64 [N], class called on each image without trigger.
        labels: int64 [N], true class.
        triggered_predictions: int64 [N], class called on the same images with trigger. Without a
            target only the recovery `pa` follows from them.
        target: The class an attack aims at. Without triggered predictions only `target_ca`
            follows from it.
        goals: int64 [N], what the attacker wants each image to be called, see `aims.Aim`; the target for all by
            default.
        classes: Class names in label order, for the name of the target.

    Returns:
        The rates that these inputs define; the others are None.

    Raises:
        DataError: Predictions, goals and labels differ in shape.
        UsageError: The target is not one of the classes.
    """
    _check("clean", clean_predictions, labels)
    if target is not None and (target < 0 or (classes is not None and target >= len(classes))):
        known = f"; there are {len(classes)} classes" if classes is not None else ""
        raise UsageError(f"target {target} is not the index of a class{known}")
    rates: dict[str, Rate] = {}
    if target is not None:
        rates["target_ca"] = _rate(clean_predictions[labels == target] == target)
    if triggered_predictions is not None:
        _check("triggered", triggered_predictions, labels)
        rates["pa"] = _rate(triggered_predictions == labels)
        if target is not None:
            wanted = torch.full_like(labels, target) if goals is None else goals
            _check("wanted", wanted, labels)
            others = labels != wanted
            rates["asr"] = _rate((triggered_predictions == wanted)[others])
            rates["asr_all"] = _rate(triggered_predictions == wanted)
            rates["asr_floor"] = _rate((clean_predictions == wanted)[others])
    name = None if target is None else classes[target] if classes is not None else str(target)
    return Metrics(
        ca=_rate(clean_predictions == labels),
        **rates,
        target=name,
        mean_per_class_recall=_mean_per_class_recall(clean_predictions, labels),
    )


def _mean_per_class_recall(predictions: torch.Tensor, labels: torch.Tensor) -> float | None:
    recalls = [rate.value for rate in _class_rates(predictions, labels, 0) if rate.count]
    return mean(recalls) if recalls else None


def _class_rates(predictions: torch.Tensor, labels: torch.Tensor, classes: int) -> list[Rate]:
    """Which share of each class is called right, for at least this many classes."""
    counts = labels.bincount(minlength=classes)
    hits = labels[predictions == labels].bincount(minlength=len(counts))
    return [Rate(hit, count) for hit, count in zip(hits.tolist(), counts.tolist(), strict=True)]


def per_class_accuracy(
    predictions: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]
) -> list[ClassAccuracy]:
    """Accuracy of every class on its own images.

    Args:
        predictions: int64 [N], class called on each image.
        labels: int64 [N], true class.
        classes: Class names in label order.

    Returns:
        One entry per class, in label order.

    Raises:
        DataError: Predictions and labels differ in shape, or a label has no class name.
    """
    _check("class", predictions, labels)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise DataError(f"labels go from {int(labels.min())} to {int(labels.max())}, names are {len(classes)}")
    rates = _class_rates(predictions, labels, len(classes))
    return [
        {"class": name, "accuracy": rate.value if rate.count else None, "count": rate.count}
        for name, rate in zip(classes, rates, strict=True)
    ]
