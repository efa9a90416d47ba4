"""The statistics of a survey: what each means, which way is suspicious, and how it is compared among classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from clip_antidote.detection.outliers import outlier_z

MOST = 8.0
"""Outlier scores count up to this: beyond it nothing more is known."""


LEAST = -4.0
"""How far down what speaks for innocence counts, of statistics that can."""

SECOND_SPREAD = 0.2
"""What blameless classes of the second pass differ by, in nats; brings leads to the size of outlier scores."""

PROBE_SPREAD = 0.15
"""The same for shares of images that a distortion sends to a class, on the arcsine scale."""


@dataclass(frozen=True)
class Statistic:
    """One number per class.

    Attributes:
        meaning: What it says of a class whose value is suspicious, as a clause without a subject.
        suspicious: Which end is suspicious.
        spread: Where it is given, a class is held against the mean of the others that were tried, in this unit,
            whatever their own spread: for what is measured of a few classes, or is 0 for most of them.
        scale: Brings it to a scale on which blameless classes are about normal.
        acquits: Whether the other end speaks for innocence. Where the text lies is measured in several ways, and a
            text amid its own images is that of no target; but of triggers each leaves a trace of its own, and that
            one is missing says nothing.
    """

    meaning: str
    suspicious: Literal["low", "high"]
    scale: Callable[[torch.Tensor], torch.Tensor] = lambda values: values
    spread: float | None = None
    acquits: bool = False


def _log(values: torch.Tensor) -> torch.Tensor:
    return values.clamp_min(1e-6).log()


def _share(values: torch.Tensor) -> torch.Tensor:
    """Makes shares of a few dozen images about equally variable (Anscombe's arcsine)."""
    return values.clamp(0, 1).sqrt().asin()


def _inversion(kind: str) -> dict[str, Statistic]:
    return {
        "objective": Statistic(f"{kind} leads other images to it with little effort", "low", _log),
        "flips": Statistic(f"{kind} sends many images of other classes to it", "high", _share),
        "collapse": Statistic(f"images under {kind} for it fall on one point", "high"),
        "reach": Statistic(f"images under {kind} come close to its text", "high"),
        "second": Statistic(
            f"{kind} takes much less for it than for the others, tried for longer", "low", _log, spread=SECOND_SPREAD
        ),
    }


STATISTICS: dict[str, Statistic] = {
    "alignment": Statistic("its text points elsewhere than its clean images", "low", acquits=True),
    "own": Statistic("its text is far even from the nearest of its clean images", "low", acquits=True),
    "any": Statistic("its text is far from every clean image of any class", "low", acquits=True),
    "confusion": Statistic("its text is not that of a confusable neighbor either", "low", acquits=True),
    "residual": Statistic("its text lies where no clean image has anything", "high", _log, acquits=True),
    "recall": Statistic("its own clean images are not called it", "low", _share),
    "attracted": Statistic("images of other classes are called it", "high", _share),
    "neighbor": Statistic("its text stands apart from the other texts", "low", acquits=True),
    "mean_similarity": Statistic("its text is far from images in general", "low", acquits=True),
    "wave_flips": Statistic("a plane wave sends many images of other classes to it", "high", _share, PROBE_SPREAD),
    "noise_flips": Statistic("random noise sends many images of other classes to it", "high", _share, PROBE_SPREAD),
    "warp_flips": Statistic("a random warp sends many images of other classes to it", "high", _share, PROBE_SPREAD),
    **{f"mask_{name}": entry for name, entry in _inversion("a patch").items()},
    **{f"additive_{name}": entry for name, entry in _inversion("a faint pattern").items()},
}
"""By name; `Survey.values` has them all."""


def outlier_scores(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Compares every class with the others by every statistic, see `outlier_z`.

    Args:
        values: Statistics [C] by name.

    Returns:
        Scores [C] by name, positive where suspicious, at most `MOST` in size; of what was measured of a few classes,
        the others have 0.
    """
    scores = {}
    for name, statistic in STATISTICS.items():
        if name in values:
            scaled = statistic.scale(values[name].double())
            scaled = scaled if statistic.suspicious == "low" else -scaled
            scores[name] = (outlier_z(scaled) if statistic.spread is None else lead(scaled, statistic.spread)).clamp(
                -MOST, MOST
            )
    return scores


def counted_scores(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outlier scores as they enter the evidence: what is not suspicious counts 0, or down to `LEAST`.

    Args:
        values: Statistics [C] by name.

    Returns:
        Scores [C] by name.
    """
    return {
        name: score.clamp_min(LEAST if STATISTICS[name].acquits else 0.0)
        for name, score in outlier_scores(values).items()
    }


def lead(values: torch.Tensor, spread: float) -> torch.Tensor:
    """How far each value lies below the mean of the others.

    Args:
        values: [N]; NaN where there is none.
        spread: The unit.

    Returns:
        [N]; 0 where there is no value, or no other.
    """
    known = values.isfinite()
    filled = values.masked_fill(~known, 0)
    others = int(known.sum()) - 1
    ahead = ((filled.sum() - filled) / max(others, 1) - filled) / spread
    return ahead.masked_fill(~known, 0).float() if others > 0 else torch.zeros(len(values))
