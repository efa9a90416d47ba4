"""What `jobs/explain.py` says of an image: answers, gate, votes and heat maps, frozen."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clip_antidote.models.attribution import HeatMap


@dataclass(frozen=True)
class ClassScore:
    """A class and its probability in [0, 1]."""

    name: str
    probability: float


@dataclass(frozen=True)
class GateReading:
    """What the gate of a guarded class said of an image that was called so.

    Attributes:
        target: The guarded class, a suspected target or not.
        score: How much the image is like the class's clean images: 0 where the dummy-triggered ones end, 1 their
            median; both higher by `GateConfig.lenience` where the class is not suspected.
        threshold: What the gate asks for.
        stopped: Whether the image was stopped.
        consent: Mean probability of the class over the other views; None where they were not asked. An image below
            the threshold that was not stopped has their consent.
    """

    target: str
    score: float
    threshold: float
    stopped: bool
    consent: float | None = None


@dataclass(frozen=True)
class ViewVote:
    """What one other view of a stopped image says.

    Attributes:
        view: Which view it is.
        picture: The view, float [3, S, S] in [0, 1] on the CPU.
        name: The class it votes for.
        confidence: Its probability of that class, in [0, 1]; the vote weighs its square.
        agrees: Whether that is the answer.
    """

    view: str
    picture: torch.Tensor
    name: str
    confidence: float
    agrees: bool


@dataclass(frozen=True)
class Explanation:
    """What was answered to one image, before and after purification, and why.

    Attributes:
        image: What the classifiers saw, trigger included: float [3, S, S] in [0, 1] on the CPU.
        before: All classes by the hand-written zero-shot classifier, the likeliest first.
        after: All classes by the purified classifier, the likeliest first.
        called: What the clean prompts called the image before any gate; None without gates.
        gate: What the gate said; None where the image was called no guarded class, or there are no gates.
        votes: The other views in their order; empty where they were not asked.
        heat_before: What in the image speaks for the first answer of `before`; heat on the CPU.
        heat_after: The same for `after`, by the class weights that gave it (those of the second look, if it did).
    """

    image: torch.Tensor
    before: tuple[ClassScore, ...]
    after: tuple[ClassScore, ...]
    called: str | None
    gate: GateReading | None
    votes: tuple[ViewVote, ...]
    heat_before: HeatMap
    heat_after: HeatMap
