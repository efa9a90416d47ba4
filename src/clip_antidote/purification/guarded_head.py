"""The guarded head (ours, beyond the paper): is an image that is called the suspected target really one?

One weight per class has to accept the target's clean images and to reject the whole triggered region
with the same vector, and pays with the target class. A gate splits the two: prompts tuned on clean
images classify; what they call the target is looked at again by linear discriminants, on the final feature and
at inner layers, and what looks triggered to them is answered by the second look, or the CBPT prompts, the target
left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import nn

from clip_antidote.models.layers import LayersAt
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.inner_gates import InnerGates
from clip_antidote.purification.second_look import view_consent

INNER_LENIENCE = 0.1
"""How much lower the gates at inner layers stand. Their mean varies less over clean images than one score does."""


class Decision(NamedTuple):
    """What the gates say of N images.

    Attributes:
        clean: Similarities to the clean class weights [N, C].
        called: What the clean prompts call the images [N].
        triggered: Which of them a gate stops, bool [N].
        score: How much each is like clean images of what it is called [N]; infinite where no gate stands there.
    """

    clean: torch.Tensor
    called: torch.Tensor
    triggered: torch.Tensor
    score: torch.Tensor


def lesser(final: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """The lesser [N] of the final feature's scores [N] and of the mean over inner stages [N, L], raised a little.

    Neither makes up for the other: an attacker who imitates the target's clean images at one of them is stopped by
    the other, and nothing passes that the final feature alone would stop.
    """
    return torch.minimum(final, inner.to(final).mean(dim=1) + INNER_LENIENCE)


class GuardedHead(nn.Module):
    """Clean class weights with a gate in front of every suspected target.

    Args:
        clean: Clean class weights [D, C].
        gates: One gate per suspected target.
        threshold: What an image needs to be accepted as a target: 0 is where the dummy-triggered images
            end, 1 the median of the target's clean images.
        inner: Gates at inner layers in front of the same targets, None where only the final feature is looked at.
        leeway: How far below the threshold an image may lie and still be accepted, if its other views consent; for
            every gate.
        consent: What probability of the target they must have in the mean.
        views_margin: How far above the threshold the gate's score must lie in the mean over them; None where it does
            not matter.
    """

    def __init__(
        self,
        clean: torch.Tensor,
        gates: Sequence[Gate],
        *,
        threshold: float,
        inner: InnerGates | None = None,
        leeway: Sequence[float] = (),
        consent: float = 1.0,
        views_margin: float | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("clean", clean)
        self.clean: torch.Tensor
        self.gate = nn.ModuleList(gates)
        self.inner = inner
        self.threshold = threshold
        self.leeway = tuple(leeway) or (0.0,) * len(gates)
        self.consent = consent
        self.views_margin = views_margin

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates, one per suspected target."""
        return tuple(one for one in self.gate if isinstance(one, Gate))

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, torch.Tensor],
        targets: Sequence[int],
        *,
        threshold: float,
        leeway: Sequence[float] = (),
        consent: float = 1.0,
        views_margin: float | None = None,
    ) -> Self:
        """Makes a head again from its `state_dict()`, the class indices of its targets and its numbers.

        Raises:
            KeyError: A tensor is missing.
            ValueError: There are more gates than targets.
        """
        if leeway and len(leeway) != len(targets):
            raise ValueError(f"{len(leeway)} numbers (leeway) are not those of {len(targets)} gates")
        gates = [
            Gate(state[f"gate.{number}.directions"], state[f"gate.{number}.offsets"], target)
            for number, target in enumerate(targets)
        ]
        within = {name.removeprefix("inner."): value for name, value in state.items() if name.startswith("inner.")}
        if len(state) - len(within) != 1 + 2 * len(gates):
            raise ValueError(f"{len(state)} tensors are not those of {len(gates)} gates")
        inner = InnerGates.from_state(within, targets) if within else None
        return cls(
            state["clean"],
            gates,
            threshold=threshold,
            inner=inner,
            leeway=leeway,
            consent=consent,
            views_margin=views_margin,
        )

    def at(self, threshold: float) -> GuardedHead:
        """Returns a head with the same weights and gates and another threshold, with which the leeway moves."""
        return GuardedHead(
            self.clean,
            self.gates,
            threshold=threshold,
            inner=self.inner,
            leeway=self.leeway,
            consent=self.consent,
            views_margin=self.views_margin,
        )

    def fits(self, shape: torch.Size) -> bool:
        """Whether the shapes of all tensors go with those of a classifier [D, C]."""
        final = all(gate.directions.shape == (shape[0], *gate.offsets.shape) for gate in self.gates)
        some = all(len(gate.offsets) for gate in self.gates)
        return self.clean.shape == shape and final and some and (self.inner is None or self.inner.fits())

    def decide(self, features: torch.Tensor, layers: LayersAt | None = None) -> Decision:
        """Classifies images by the clean weights, and asks the gates about those that are called a target.

        Args:
            features: Unit features [N, D].
            layers: Gives what the inner layers say of images, at rows of `features`; without it, the final feature
                decides alone.
        """
        clean = features @ self.clean
        called = clean.argmax(dim=1)
        score = torch.full_like(clean[:, 0], float("inf"))
        deep = self._asked(called, layers)
        for number, gate in enumerate(self.gates):
            found = gate.score(features)
            if deep is not None:
                rows, inner = deep
                found = found.index_copy(0, rows, lesser(found[rows], inner[number]))
            score = torch.where(called == gate.target, torch.minimum(score, found), score)
        return Decision(clean, called, score < self.threshold, score)

    def consented(
        self, decision: Decision, rows: torch.Tensor, views: torch.Tensor, logit_scale: torch.Tensor
    ) -> torch.Tensor:
        """Which stopped images are accepted after all, since they lie near the threshold and their views agree.

        A trigger that a gate nearly lets pass is taken out by a change of the image; what the image shows is not. A
        trigger that outlives the change is seen by the gate in the views, whose mean says more than one score.

        Args:
            decision: What the gates say of all images.
            rows: Which of them were looked at again [n].
            views: Unit features of their other views [n, K, D].
            logit_scale: Scalar s.

        Returns:
            bool [n].
        """
        called = decision.called[rows]
        chances = view_consent(views, self.clean, called, logit_scale)
        allowed, seen = torch.zeros_like(chances), torch.zeros_like(chances)
        for gate, leeway in zip(self.gates, self.leeway, strict=True):
            own = called == gate.target
            allowed = torch.where(own, leeway, allowed)
            scores = gate.score(views.flatten(0, 1)).unflatten(0, views.shape[:2])
            seen = torch.where(own, scores.mean(dim=1), seen)
        agreed = (decision.score[rows] >= self.threshold - allowed) & (chances >= self.consent)
        return agreed if self.views_margin is None else agreed & (seen >= self.threshold + self.views_margin)

    def _asked(self, called: torch.Tensor, layers: LayersAt | None) -> tuple[torch.Tensor, list[torch.Tensor]] | None:
        """Rows that are called a target, with the scores of inner layers by target; all rows in an exported graph."""
        if self.inner is None or layers is None:
            return None
        if torch.compiler.is_exporting():
            rows = torch.arange(called.shape[0], device=called.device)
        else:
            targets = torch.tensor([gate.target for gate in self.gates], device=called.device)
            rows = torch.isin(called, targets).nonzero().flatten()
            if not len(rows):
                return None
        return rows, self.inner.scores(layers(rows))
