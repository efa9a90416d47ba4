"""How well a score tells triggered images from clean ones."""

from __future__ import annotations

import torch


def roc_auc(clean: torch.Tensor, triggered: torch.Tensor) -> float:
    """Area under the ROC curve: how often a triggered image scores above a clean one, ties counting half.

    Args:
        clean: Scores of clean images [n], n at least 1.
        triggered: Scores of triggered images [m], m at least 1.
    """
    differences = triggered[:, None].double() - clean[None].double()
    return float((differences > 0).double().mean() + (differences == 0).double().mean() / 2)


def found_at(clean: torch.Tensor, triggered: torch.Tensor, *, false_alarms: float) -> float:
    """Share of triggered images over the lowest threshold at which no larger share of the clean ones is over it.

    Args:
        clean: Scores of clean images [n], n at least 1.
        triggered: Scores of triggered images [m], m at least 1.
        false_alarms: Largest share of clean images over the threshold, in [0, 1).
    """
    allowed = int(false_alarms * len(clean))
    threshold = clean.sort(descending=True).values[allowed]
    return float((triggered > threshold).float().mean())
