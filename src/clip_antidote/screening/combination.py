"""Several unlike scores in one, calibrated on held-out clean views and held-out dummies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clip_antidote.errors import UnsupportedError

FARTHEST = 8.0
"""Standardized scores are cut at this many deviations: a single one must not decide by its mere size."""


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out clean views put every score on one scale: mean 0 and deviation 1 there.

    Attributes:
        names: The scores, in their order.
        means: Mean of each over held-out clean views [S].
        deviations: Standard deviation of each [S].
        model: A logistic regression on standardized scores, of scikit-learn.
    """

    names: tuple[str, ...]
    means: torch.Tensor
    deviations: torch.Tensor
    model: Any

    @classmethod
    def fit(cls, clean: Mapping[str, torch.Tensor], dummies: Mapping[str, torch.Tensor]) -> Calibration:
        """Fits to scores of held-out views; what a score was fitted to must not be among them.

        Args:
            clean: Scores of clean views of the target, by name, each [n].
            dummies: Scores of views under dummies, by the same names, each [m].

        Raises:
            UnsupportedError: scikit-learn is not installed.
        """
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise UnsupportedError("combining scores needs scikit-learn; pip install scikit-learn") from error
        names = tuple(clean)
        table = torch.stack([clean[name] for name in names], dim=1)
        empty = cls(names, table.mean(0), table.std(0).clamp_min(1e-6), None)
        rows = torch.cat([empty.standardized(clean), empty.standardized(dummies)]).numpy()
        truth = np.repeat([0, 1], [len(table), len(rows) - len(table)])
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(rows, truth)
        return cls(names, empty.means, empty.deviations, model)

    def standardized(self, scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Scores in deviations from held-out clean views [N, S]."""
        table = torch.stack([scores[name] for name in self.names], dim=1)
        return ((table - self.means) / self.deviations).clamp(-FARTHEST, FARTHEST)

    def logistic(self, scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Log-odds of the logistic regression [N]."""
        found = self.model.decision_function(self.standardized(scores).numpy())
        return torch.as_tensor(found, dtype=torch.float32)

    def mean(self, scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean of the standardized scores [N]: where all are a little odd."""
        return self.standardized(scores).mean(1)

    def largest(self, scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Largest of the standardized scores [N]: where one is very odd."""
        return self.standardized(scores).amax(1)
