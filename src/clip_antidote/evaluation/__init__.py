"""Clean accuracy, attack success and recovery of a classifier, with intervals."""

from clip_antidote.evaluation.intervals import Rate, wilson_interval
from clip_antidote.evaluation.metrics import ClassAccuracy, Metrics, compute_metrics, per_class_accuracy

__all__ = [
    "ClassAccuracy",
    "Metrics",
    "Rate",
    "compute_metrics",
    "per_class_accuracy",
    "wilson_interval",
]
