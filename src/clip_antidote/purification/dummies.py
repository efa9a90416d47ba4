"""Features of clean views under the dummy triggers: what the prompts are tuned against and the gates fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from clip_antidote.detection.search import SearchResult
from clip_antidote.inversion.views import Observation
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.triggers.base import Trigger


@dataclass(frozen=True)
class DummyFeatures:
    """Views of other classes under the dummy triggers of one suspected target.

    Attributes:
        target: Class index of the target.
        families: Unit features [n, D] under every dummy, by family.
        labels: True classes of the views [n].
        suspected: Whether the class is a suspected target, and not only guarded.
        triggers: The dummies themselves, by family as `families`; may be empty where only features are known.
    """

    target: int
    families: dict[str, list[torch.Tensor]]
    labels: torch.Tensor
    suspected: bool = True
    triggers: dict[str, list[Trigger]] = field(default_factory=dict)

    def parts(self) -> list[torch.Tensor]:
        """The features under every dummy, family by family."""
        return [part for family in self.families.values() for part in family]


@dataclass(frozen=True)
class TriggeredViews:
    """Triggered features with the classes they should be called, for prompt tuning.

    Attributes:
        features: Unit features [T, D]; may be empty.
        labels: True classes [T].
    """

    features: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, seen: Observation, dummies: Sequence[DummyFeatures]) -> TriggeredViews:
        """Puts the features under all dummies of all targets into one; empty without any."""
        pool = seen.pool
        parts = [part for one in dummies for part in one.parts()]
        truth = [one.labels for one in dummies for _ in one.parts()]
        return cls(torch.cat([pool.features[:0], *parts]), torch.cat([pool.labels[:0], *truth]))


def other_class_rows(seen: Observation, target: int, seed: int) -> torch.Tensor:
    """Rows of the pool that show other classes than the target, in an order drawn by the seed."""
    rows = (seen.pool.labels != target).nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]


def encode_dummies(seen: Observation, found: SearchResult, config: CBPTConfig) -> tuple[DummyFeatures, ...]:
    """Encodes views of other classes under every dummy trigger of every guarded class.

    At most `config.triggered_views` of them for a suspected target and `config.guarded_views` for another guarded
    class, drawn by the seed.

    Args:
        seen: The suspect and its views.
        found: Targets and their dummies.
        config: Settings.

    Returns:
        The features by class, the most suspicious first; classes without a dummy are left out.
    """
    out = []
    for target in found.guarded:
        suspected = target in found.targets
        most = config.triggered_views if suspected else config.guarded_views
        rows = other_class_rows(seen, target, config.seed)[:most]
        families: dict[str, list[torch.Tensor]] = {}
        triggers: dict[str, list[Trigger]] = {}
        for dummy in found.dummies:
            if dummy.target == target:
                part = seen.encode(seen.pool.images[rows], dummy.trigger, description="dummy-triggered features")
                families.setdefault(dummy.family, []).append(part)
                triggers.setdefault(dummy.family, []).append(dummy.trigger)
        if families:
            out.append(DummyFeatures(target, families, seen.pool.labels[rows], suspected, triggers))
    return tuple(out)
