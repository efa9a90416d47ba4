"""Fitting a gate to clean views and dummy triggers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from clip_antidote.detection.forms import FORMS
from clip_antidote.errors import DataError
from clip_antidote.purification.config import GateConfig
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.text_repair import TextMap

FOLDS = 16
"""Most folds in which the target's shots are held out to place the gate."""

DUMMIES_END = 0.99
"""Quantile of the dummies' scores that becomes 0: nearly all of them, and no single odd view decides."""

NARROWEST = 1e-6
"""Least distance between the dummies and the target's clean views, where they cannot be told apart at all."""

ESTIMATED_WELL = 3
"""Weight of the scatter of the dummies and within classes (thousands of views) to that of the target's few shots."""


@dataclass(frozen=True)
class GateData:
    """What the gate is fitted to.

    Attributes:
        views: Unit features [T, D] of many clean views of the target's shots.
        shots: Which shot each view shows [T].
        dummies: Unit features [n, D] of other classes' views under each dummy trigger, by family.
        features: Unit features [V, D] of clean views of all classes.
        labels: Their classes [V].
        weights: Hand-written class weights [C, D].
        target: Class index of the suspected target.
        text_map: How texts and images belong together; None where there are too few classes to tell.
        suspected: Whether the class is a suspected target, and not only guarded.
    """

    views: torch.Tensor
    shots: torch.Tensor
    dummies: Mapping[str, Sequence[torch.Tensor]]
    features: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    target: int
    text_map: TextMap | None
    suspected: bool = True


def scatter(features: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
    """Covariance [D, D] of features [N, D] about their mean, or about the means of their groups."""
    features = features.double()
    if groups is None:
        rest = features - features.mean(0)
    else:
        one_hot = F.one_hot(groups).double()
        means = (one_hot.T @ features) / one_hot.sum(0).clamp_min(1)[:, None]
        rest = features - means[groups]
    return rest.T @ rest / len(rest)


def shrunk(joint: torch.Tensor, share: float) -> torch.Tensor:
    """A covariance [D, D], double, with a share of the multiple of the identity that has its trace."""
    size = len(joint)
    return (1 - share) * joint + share * joint.trace() / size * torch.eye(size).double()


@dataclass(frozen=True)
class _Family:
    """One family of dummies: the mean direction [D] of its features and their scatter [D, D]."""

    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, dummies: Sequence[torch.Tensor]) -> _Family:
        mean = torch.stack([F.normalize(part.mean(0), dim=0) for part in dummies]).mean(0)
        total = torch.stack([scatter(part) * len(part) for part in dummies]).sum(0)
        return cls(F.normalize(mean, dim=0), total / sum(len(part) for part in dummies))


def _direction(
    views: torch.Tensor, family: _Family, within: torch.Tensor, data: GateData, config: GateConfig
) -> torch.Tensor:
    """Fisher's discriminant [D] between the target's clean views and one family of dummies.

    −S⁻¹·(norm(m̃ − m_t) + residual·pull): the means are unit vectors, since dummies are more collapsed than
    real triggers; S averages the scatter of the target's views, of the dummies and within all classes,
    the first, which few shots give, with a third of the weight of the others.
    """
    own = F.normalize(views.mean(0), dim=0)
    toward = F.normalize(family.mean - own, dim=0)
    if data.text_map is not None:
        toward = toward + config.residual_weight * data.text_map.pull(data.weights[data.target], own)
    weight = ESTIMATED_WELL
    joint = (scatter(views) + weight * family.spread + weight * within) / (1 + 2 * weight)
    joint = shrunk(joint, config.shrinkage)
    solved, singular = torch.linalg.solve_ex(joint, toward.double())
    direction = -solved
    direction = (direction / (direction @ joint @ direction).sqrt()).float()
    if int(singular) or not bool(direction.isfinite().all()):
        raise DataError(
            f"to this model the clean images of class {data.target + 1} of {len(data.weights)} are all alike, with a "
            "dummy trigger or without, so no gate can be fitted; give images that differ, or switch off gate.enabled"
        )
    return direction


def flip_rate(features: torch.Tensor, weights: torch.Tensor, target: int) -> float:
    """Share of unit features [n, D] that class weights [C, D] call the target."""
    return float(((features @ weights.T).argmax(1) == target).float().mean())


def useful_dummies(data: GateData, *, min_flip: float) -> dict[str, list[torch.Tensor]]:
    """Keeps the dummies that send at least `min_flip` of the images to the target, see `useful_numbers`."""
    kept = useful_numbers(data.dummies, data.weights, data.target, min_flip=min_flip)
    return {family: [data.dummies[family][number] for number in numbers] for family, numbers in kept.items()}


def useful_numbers(
    dummies: Mapping[str, Sequence[torch.Tensor]], weights: torch.Tensor, target: int, *, min_flip: float
) -> dict[str, list[int]]:
    """Which dummies of each family `useful_dummies` keeps, by features [n, D] under them.

    Those that send at least `min_flip` of the images to the target. Where none of a free shape does, all of these; a
    dummy of a given form that does not is that of another attack.
    """
    strong = {
        family: [n for n, part in enumerate(parts) if flip_rate(part, weights, target) >= min_flip]
        for family, parts in dummies.items()
    }
    kept = {family: numbers for family, numbers in strong.items() if numbers}
    free = {family: list(range(len(parts))) for family, parts in dummies.items() if family not in FORMS}
    return kept if free.keys() & kept.keys() else {**free, **kept}


def fit_gate(data: GateData, config: GateConfig) -> Gate:
    """Fits the gate to clean views and dummy triggers alone.

    Every family of dummies gives a direction and a scale: 0 is the 99 % quantile of its dummies (the
    largest over the family), 1 the median of the target's clean views, each scored by a direction that
    was fitted without its own shot. With a single shot nothing can be held out; what it scores by the
    direction it took part in is far too high, and 1 is put half-way to it. The gate of a class that is not suspected
    stands lower, by `lenience`.

    Args:
        data: What to fit to.
        config: Settings.

    Raises:
        DataError: Nothing differs: not the images of the target, and not those with the dummies.
    """
    return fit_families(replace(data, dummies=useful_dummies(data, min_flip=config.min_flip)), config)


def fit_families(data: GateData, config: GateConfig, *, folds: int = FOLDS) -> Gate:
    """Fits the gate to all dummies it is given, see `fit_gate`; features may be those of an inner layer.

    Args:
        data: What to fit to.
        config: Settings.
        folds: Most folds in which the target's shots are held out.

    Raises:
        DataError: Nothing differs.
    """
    within = scatter(data.features, data.labels)
    directions, offsets = [], []
    for parts in data.dummies.values():
        family = _Family.of(parts)
        direction = _direction(data.views, family, within, data, config)
        low = torch.stack([(part @ direction).quantile(DUMMIES_END) for part in parts]).amax()
        held_out = _held_out(family, within, data, config, folds)
        high = held_out.median() if held_out is not None else (low + (data.views @ direction).median()) / 2
        scale = (high - low).clamp_min(NARROWEST)
        directions.append(direction / scale)
        offsets.append(low / scale)
    placed = torch.stack(offsets) - (0 if data.suspected else config.lenience)
    return Gate(torch.stack(directions, 1), placed, data.target)


def _held_out(
    family: _Family, within: torch.Tensor, data: GateData, config: GateConfig, folds: int
) -> torch.Tensor | None:
    """Scores [T] of the target's views by directions fitted without their shots; None with a single shot."""
    ids = data.shots.unique()
    if len(ids) < 2:
        return None
    scores = torch.empty(len(data.views))
    for part in ids.tensor_split(min(folds, len(ids))):
        out = torch.isin(data.shots, part)
        scores[out] = data.views[out] @ _direction(data.views[~out], family, within, data, config)
    return scores
