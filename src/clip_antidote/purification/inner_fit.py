"""Fitting the gates at inner layers: to the same views and dummies as the gate, at every stage of the image tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clip_antidote.inversion.views import Observation, ViewPool
from clip_antidote.models.layer_encoding import encode_layers_of
from clip_antidote.models.layers import LayerFeatures
from clip_antidote.purification.config import CBPTConfig, GateConfig
from clip_antidote.purification.dummies import DummyFeatures, other_class_rows
from clip_antidote.purification.gate_fit import GateData, fit_families, useful_numbers
from clip_antidote.purification.inner_gates import InnerGates, spread_stages
from clip_antidote.purification.stage_space import StageSpace

POOL_VIEWS = 2
"""Views of every shot that are encoded at all stages: the centered one and a crop."""

MOST_POOL_VIEWS = 4000
"""Of long class lists so many views at most."""

DUMMY_VIEWS = 500
"""Views of other classes under every dummy that are encoded at all stages."""

FOLDS = 4
"""Folds in which the target's shots are held out; fewer than the gate's, for there are many stages."""


@dataclass(frozen=True)
class InnerData:
    """What gates at inner layers are fitted to.

    Attributes:
        space: The scale of the stages.
        stages: Numbers of the stages that are read.
        gates: For every target and every stage, what its gate is fitted to.
    """

    space: StageSpace
    stages: tuple[int, ...]
    gates: tuple[tuple[GateData, ...], ...]


def gather_inner(
    seen: Observation, dummies: Sequence[DummyFeatures], own: Sequence[ViewPool], config: CBPTConfig
) -> InnerData | None:
    """Encodes views of the shots at all stages, clean and under the dummies.

    Args:
        seen: The suspect and its views.
        dummies: Features under the dummy triggers, with the triggers, by target.
        own: Many views of the target's shots, in the same order.
        config: Settings.

    Returns:
        What the gates are fitted to; None where the tower's stages are not known, or there are no triggers.
    """
    stages = spread_stages(len(seen.model.stages()))
    if not stages or not all(one.triggers for one in dummies):
        return None
    rows = _pool_rows(seen, config.seed)
    pool = _chosen(
        encode_layers_of(
            seen.model, seen.pool.images[rows], precision=seen.precision, description="layers of clean views"
        ),
        stages,
    )
    space = StageSpace.fit(pool.stages, seed=config.seed)
    clean, labels = space.places(pool), seen.pool.labels[rows]
    gates = []
    for one, views in zip(dummies, own, strict=True):
        encoded = encode_layers_of(
            seen.model, views.images, precision=seen.precision, description="layers of the target's views"
        )
        places = space.places(_chosen(encoded, stages))
        triggered = _under_dummies(seen, one, space, stages, config)
        gates.append(
            tuple(
                GateData(
                    views=places[i],
                    shots=views.shots,
                    dummies={family: [part[i] for part in parts] for family, parts in triggered.items()},
                    features=clean[i],
                    labels=labels,
                    weights=seen.weights,
                    target=one.target,
                    text_map=None,
                    suspected=one.suspected,
                )
                for i in range(len(stages))
            )
        )
    return InnerData(space, stages, tuple(gates))


def fit_inner(data: InnerData, config: GateConfig) -> InnerGates:
    """Fits a gate at every stage for every target."""
    gates = [[fit_families(stage, config, folds=FOLDS) for stage in row] for row in data.gates]
    return InnerGates.of(data.space, data.stages, gates)


def _pool_rows(seen: Observation, seed: int) -> torch.Tensor:
    count = min(POOL_VIEWS * len(seen.shots), len(seen.pool))  # view by view, see `make_views`
    if count <= MOST_POOL_VIEWS:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:MOST_POOL_VIEWS].sort().values


def _chosen(features: LayerFeatures, stages: Sequence[int]) -> LayerFeatures:
    return LayerFeatures([features.stages[stage] for stage in stages], features.final)


def _under_dummies(
    seen: Observation, dummies: DummyFeatures, space: StageSpace, stages: Sequence[int], config: CBPTConfig
) -> dict[str, list[list[torch.Tensor]]]:
    """Places of views of other classes under the dummies that the gate uses too, by family."""
    rows = other_class_rows(seen, dummies.target, config.seed)[:DUMMY_VIEWS]
    images = seen.pool.images[rows]
    kept = useful_numbers(dummies.families, seen.weights, dummies.target, min_flip=config.gate.min_flip)
    found: dict[str, list[list[torch.Tensor]]] = {}
    for family, numbers in kept.items():
        for number in numbers:
            part = encode_layers_of(
                seen.model,
                images,
                transform=dummies.triggers[family][number],
                precision=seen.precision,
                description="layers under dummies",
            )
            found.setdefault(family, []).append(space.places(_chosen(part, stages)))
    return found
