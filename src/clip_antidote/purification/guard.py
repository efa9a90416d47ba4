"""The third stage of a purification: prompts tuned on clean views, and a gate in front of every suspected target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clip_antidote.inversion.views import Observation, ViewPool
from clip_antidote.purification.config import CBPTConfig, GateConfig
from clip_antidote.purification.dummies import DummyFeatures, TriggeredViews
from clip_antidote.purification.gate_fit import GateData, fit_gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.inner_fit import InnerData, fit_inner, gather_inner
from clip_antidote.purification.text_repair import TextMap, repair_weights
from clip_antidote.purification.tuner import tune_prompts


@dataclass(frozen=True)
class GuardMaterial:
    """What a guarded head is made from; of the gate's settings, only ridge, views, flips and `inner` matter to it.

    Attributes:
        clean: Class weights of prompts tuned on clean views alone [C, D].
        centroids: Unit mean features of all classes' views [C, D].
        text_map: How texts and images belong together; None where there are too few classes to tell.
        gates: What every gate is fitted to, one per suspected target.
        inner: The same for the gates at inner layers; None where there are none.
    """

    clean: torch.Tensor
    centroids: torch.Tensor
    text_map: TextMap | None
    gates: tuple[GateData, ...]
    inner: InnerData | None = None


def guard_targets(seen: Observation, dummies: Sequence[DummyFeatures], config: CBPTConfig) -> GuardedHead | None:
    """Puts a gate in front of every suspected target; None where there is none, or the settings want no gate.

    Args:
        seen: The suspect and its views.
        dummies: Features under the dummy triggers, by target.
        config: Settings.
    """
    if not dummies or not config.gate.enabled:
        return None
    return fit_guard(guard_material(seen, dummies, tune_clean(seen, config), config), config.gate)


def tune_clean(seen: Observation, config: CBPTConfig) -> torch.Tensor:
    """Tunes one prompt per class on clean views alone and returns the class weights [C, D] on the CPU."""
    tuned = tune_prompts(
        seen, TriggeredViews.of(seen, ()), config.tuning, seed=config.seed, description="tuning clean prompts"
    )
    return tuned.weights.cpu()


def guard_material(
    seen: Observation, dummies: Sequence[DummyFeatures], clean: torch.Tensor, config: CBPTConfig
) -> GuardMaterial:
    """Gathers what the gates are fitted to.

    Args:
        seen: The suspect and its views.
        dummies: Features under the dummy triggers, by target.
        clean: Class weights of prompts tuned on clean views alone [C, D].
        config: Settings.
    """
    centroids = seen.centroids()
    suspects = tuple(one.target for one in dummies)
    text_map = TextMap.fit(seen.weights, centroids, suspects, ridge=config.gate.ridge)
    own = [own_views(seen, one.target, config) for one in dummies]
    gates = tuple(gate_data(seen, one, views, text_map) for one, views in zip(dummies, own, strict=True))
    inner = gather_inner(seen, dummies, own, config) if config.gate.inner else None
    return GuardMaterial(clean, centroids, text_map, gates, inner)


def own_views(seen: Observation, target: int, config: CBPTConfig) -> ViewPool:
    """Makes many views of the target's shots: crops of their own, not those of the pool."""
    return seen.views_of(
        target,
        views=config.gate.target_views,
        min_scale=config.gate.target_min_scale,
        seed=config.seed + 1,
    )


def gate_data(seen: Observation, dummies: DummyFeatures, views: ViewPool, text_map: TextMap | None) -> GateData:
    """Gathers what the gate of one target is fitted to, with many views of the target's shots."""
    return GateData(
        views=views.features,
        shots=views.shots,
        dummies=dummies.families,
        features=seen.pool.features,
        labels=seen.pool.labels,
        weights=seen.weights,
        target=dummies.target,
        text_map=text_map,
        suspected=dummies.suspected,
    )


def fit_guard(material: GuardMaterial, config: GateConfig) -> GuardedHead:
    """Repairs the targets' texts and fits the gates."""
    suspects = tuple(data.target for data in material.gates if data.suspected)
    weights = material.gates[0].weights
    repaired = repair_weights(
        material.clean, weights, material.centroids, material.text_map, suspects, share=config.repair
    )
    gates = [fit_gate(data, config) for data in material.gates]
    inner = None if material.inner is None else fit_inner(material.inner, config)
    return GuardedHead(
        repaired.T.contiguous(),
        gates,
        threshold=config.threshold,
        inner=inner,
        leeway=[config.leeway if data.suspected else config.guarded_leeway for data in material.gates],
        consent=config.consent,
        views_margin=config.views_margin,
    )
