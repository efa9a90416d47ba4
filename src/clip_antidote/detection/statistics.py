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

FORM = "form"
"""The score of the form of trigger that reaches a class most easily: each attack answers to its own."""

BLAMELESS = 1.25
"""How far the most easily reached of blameless classes stands out, over what the largest of so many normal scores is.

At 120 classes that is 3.0, which it has in most clean models.
"""

PROBE_SPREAD = 0.15
"""What blameless classes differ by in the shares of images that a distortion sends to them, on the arcsine scale."""


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


def _form(kind: str) -> dict[str, Statistic]:
    return {
        "ease": Statistic(f"{kind} lead other images to it within a few steps", "low"),
        "sent": Statistic(f"{kind} send many images of other classes to it within a few steps", "high", _share),
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
    **{f"patch_{name}": entry for name, entry in _form("opaque patches in the middle").items()},
    **{f"corners_{name}": entry for name, entry in _form("opaque patches in the corners").items()},
    **{f"faint_{name}": entry for name, entry in _form("faint patterns").items()},
    **{f"stripes_{name}": entry for name, entry in _form("faint stripes").items()},
    **{f"color_{name}": entry for name, entry in _form("color curves").items()},
}
"""By name; `Survey.values` has them all."""

EASE = tuple(name for name in STATISTICS if name.endswith("_ease"))
"""How easily a class is reached by triggers of each form."""


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
        Scores [C] by name, and that of the loudest form under `FORM`.
    """
    outliers = outlier_scores(values)
    counted = {name: score.clamp_min(LEAST if STATISTICS[name].acquits else 0.0) for name, score in outliers.items()}
    forms = [outliers[name] for name in EASE if name in outliers]
    if not forms:
        return counted
    return counted | {FORM: (torch.stack(forms).amax(0) - form_start(len(forms[0]))).clamp_min(0)}


def form_start(classes: int) -> float:
    """Returns what the score of a form has to exceed to count: what one of so many blameless classes has as well."""
    return BLAMELESS * float(torch.special.ndtri(torch.tensor(1 - 1 / max(classes, 2), dtype=torch.float64)))


def form_scores(values: Mapping[str, torch.Tensor], label: int) -> dict[str, float]:
    """Returns how easily each form of trigger reaches a class, in outlier scores that are not cut off, highest first.

    Args:
        values: Statistics [C] by name.
        label: Index of the class.

    Returns:
        The scores by the name of the statistic.
    """
    scores = {name: float(outlier_z(values[name])[label]) for name in EASE if name in values}
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))


def stands_out(values: Mapping[str, torch.Tensor], label: int) -> bool:
    """Whether some form of trigger reaches a class more easily than one of so many blameless classes is reached.

    Args:
        values: Statistics [C] by name.
        label: Index of the class.
    """
    return max(form_scores(values, label).values()) > form_start(len(next(iter(values.values()))))


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
