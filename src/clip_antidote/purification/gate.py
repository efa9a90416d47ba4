"""The gate (ours, beyond the paper): is an image that is called the suspected target really one?

One weight per class has to accept the target's clean images and to reject the whole triggered region
with the same vector, and pays with the target class. The gate splits the two: prompts tuned on clean
images classify; what they call the target is looked at again by a linear discriminant, and what looks
triggered to it is answered by the second look, or the CBPT prompts, the target left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import nn


class Gate(nn.Module):
    """The guard of one suspected target.

    Args:
        directions: One direction per family of dummy triggers [D, G].
        offsets: Subtracted from the projections [G].
        target: Class index of the suspected target.
    """

    def __init__(self, directions: torch.Tensor, offsets: torch.Tensor, target: int) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        self.register_buffer("offsets", offsets)
        self.directions: torch.Tensor
        self.offsets: torch.Tensor
        self.target = target

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """How much unit features [N, D] are like the target's clean images: the least of all families, [N]."""
        return (features @ self.directions - self.offsets).amin(dim=1)


class Decision(NamedTuple):
    """What the gates say of N images.

    Attributes:
        clean: Similarities to the clean class weights [N, C].
        called: What the clean prompts call the images [N].
        triggered: Which of them a gate stops, bool [N].
    """

    clean: torch.Tensor
    called: torch.Tensor
    triggered: torch.Tensor


class GuardedHead(nn.Module):
    """Clean class weights with a gate in front of every suspected target.

    Args:
        clean: Clean class weights [D, C].
        gates: One gate per suspected target.
        threshold: What an image needs to be accepted as a target: 0 is where the dummy-triggered images
            end, 1 the median of the target's clean images.
    """

    def __init__(self, clean: torch.Tensor, gates: Sequence[Gate], *, threshold: float) -> None:
        super().__init__()
        self.register_buffer("clean", clean)
        self.clean: torch.Tensor
        self.gate = nn.ModuleList(gates)
        self.threshold = threshold

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates, one per suspected target."""
        return tuple(one for one in self.gate if isinstance(one, Gate))

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], targets: Sequence[int], *, threshold: float) -> Self:
        """Makes a head again from its `state_dict()`, the class indices of its targets and its threshold.

        Raises:
            KeyError: A tensor is missing.
            ValueError: There are more gates than targets.
        """
        gates = [
            Gate(state[f"gate.{number}.directions"], state[f"gate.{number}.offsets"], target)
            for number, target in enumerate(targets)
        ]
        if len(state) != 1 + 2 * len(gates):
            raise ValueError(f"{len(state)} tensors are not those of {len(gates)} gates")
        return cls(state["clean"], gates, threshold=threshold)

    def at(self, threshold: float) -> GuardedHead:
        """Returns a head with the same weights and gates and another threshold."""
        return GuardedHead(self.clean, self.gates, threshold=threshold)

    def decide(self, features: torch.Tensor) -> Decision:
        """Classifies unit features [N, D] by the clean weights, and asks the gates about what is called a target."""
        clean = features @ self.clean
        called = clean.argmax(dim=1)
        triggered = torch.zeros_like(called, dtype=torch.bool)
        for gate in self.gates:
            triggered |= (called == gate.target) & (gate.score(features) < self.threshold)
        return Decision(clean, called, triggered)
