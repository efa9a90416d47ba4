"""What scores of images are fitted to: clean views, and views under dummy triggers, at every stage of the tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.views import Observation
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layer_encoding import encode_layers_of
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.dummies import other_class_rows
from clip_antidote.purification.gate_fit import flip_rate
from clip_antidote.purification.guard import own_views
from clip_antidote.purification.inner_fit import DUMMY_VIEWS, POOL_VIEWS
from clip_antidote.purification.stage_space import StageSpace
from clip_antidote.purification.text_repair import TextMap


@dataclass(frozen=True)
class Material:
    """What a score is fitted to. Places are the stages in their order, then the final feature.

    Attributes:
        model: The suspect.
        classes: Names of the classes.
        target: Class index of the target.
        weights: Hand-written class weights [C, D].
        images: uint8 [M, 3, S, S], the shots as they are.
        space: The scale of the stages.
        pool: Clean views of all classes, unit vectors [V, d_l] per place.
        labels: Their classes [V].
        shots: Which shot each of them shows [V].
        own: Many views of the target's shots, unit vectors [T, d_l] per place.
        own_shots: Which shot each of them shows [T], numbered as `shots`.
        dummies: Views of other classes under each dummy, [n, d_l] per place, by family.
        text_map: How texts and images belong together; None where there are too few classes.
    """

    model: DualEncoder
    classes: tuple[str, ...]
    target: int
    weights: torch.Tensor
    images: torch.Tensor
    space: StageSpace
    pool: list[torch.Tensor]
    labels: torch.Tensor
    shots: torch.Tensor
    own: list[torch.Tensor]
    own_shots: torch.Tensor
    dummies: Mapping[str, Sequence[list[torch.Tensor]]]
    text_map: TextMap | None

    @property
    def target_shots(self) -> torch.Tensor:
        """Numbers of the target's shots, ascending."""
        return self.own_shots.unique()

    def without(self, shots: torch.Tensor, family: str | None = None) -> Material:
        """The same without some shots, and without a family of dummies where another is left."""
        kept, own = ~torch.isin(self.shots, shots), ~torch.isin(self.own_shots, shots)
        others = {name: parts for name, parts in self.dummies.items() if name != family}
        return replace(
            self,
            pool=[place[kept] for place in self.pool],
            labels=self.labels[kept],
            shots=self.shots[kept],
            own=[place[own] for place in self.own],
            own_shots=self.own_shots[own],
            dummies=others or self.dummies,
        )


def gather_material(seen: Observation, target: int, dummies: Sequence[Dummy], config: CBPTConfig) -> Material:
    """Encodes clean views and views under the dummies of a target at all stages.

    Args:
        seen: The suspect and its views.
        target: Class index of the target.
        dummies: Its dummy triggers; those that flip too few views (`gate.min_flip`) are left out, unless all do.
        config: Settings: seed, views of the target, threshold for dummies.
    """
    rows = torch.arange(min(POOL_VIEWS * len(seen.shots), len(seen.pool)))  # view by view, see `make_views`
    features = encode_layers_of(seen.model, seen.pool.images[rows], description="layers of clean views")
    space = StageSpace.fit(features.stages, seed=config.seed)
    views = own_views(seen, target, config)
    own = encode_layers_of(seen.model, views.images, description="layers of the target's views")
    numbers = (seen.shots.labels == target).nonzero().flatten()
    others = other_class_rows(seen, target, config.seed)[:DUMMY_VIEWS]
    families: dict[str, list[list[torch.Tensor]]] = {}
    weak: dict[str, list[list[torch.Tensor]]] = {}
    for dummy in dummies:
        part = encode_layers_of(
            seen.model, seen.pool.images[others], transform=dummy.trigger, description="layers under dummies"
        )
        strong = flip_rate(part.final, seen.weights, target) >= config.gate.min_flip
        (families if strong else weak).setdefault(dummy.family, []).append(space.places(part))
    return Material(
        model=seen.model,
        classes=seen.classes,
        target=target,
        weights=seen.weights,
        images=seen.shots.tensor(seen.model.image_size, mode=seen.model.resize_mode),
        space=space,
        pool=space.places(features),
        labels=seen.pool.labels[rows],
        shots=seen.pool.shots[rows],
        own=space.places(own),
        own_shots=numbers[views.shots],
        dummies=families or weak,
        text_map=TextMap.fit(seen.weights, seen.centroids(), (target,), ridge=config.gate.ridge),
    )
