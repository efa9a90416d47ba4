"""`defend()`: one call for every defense."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from clip_antidote.config import Config
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.base import Defense, Given, Truth
from clip_antidote.defenses.profile import Profile
from clip_antidote.defenses.refusal import refusal
from clip_antidote.errors import RefusedError
from clip_antidote.memory import peak_memory
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier


@dataclass(frozen=True)
class Defended:
    """A defended classifier, what it cost and how it was made.

    Attributes:
        name: Name of the defense.
        profile: What it needs and changes.
        settings: Its settings.
        classifier: The classifier; its `model` is another one than the suspect where a tower was changed.
        clean_images: Clean images it was given.
        trained: Parameters it trained.
        seconds: How long it took.
        peak_memory: The most memory while it ran, in MiB, see `memory.peak_memory`.
        details: What else it found or chose, ready for JSON.
        tensors: What was trained, where the model cannot be saved as one of its library.
    """

    name: str
    profile: Profile
    settings: Config
    classifier: ZeroShotClassifier
    clean_images: int
    trained: int
    seconds: float
    peak_memory: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def make_defense(
    name: str, settings: Mapping[str, Any] | Config | None = None, *, seed: int | None = None
) -> Defense:
    """Makes a defense with its settings.

    Args:
        name: One of `clip-antidote ls defenses`.
        settings: Settings by their names, or whole; defaults for what is not named.
        seed: Wins over the seed of the settings.

    Raises:
        UsageError: There is no such defense or setting.
    """
    made = DEFENSES.get(name)
    if isinstance(settings, Config) and not isinstance(settings, made.config_class):
        settings = None  # of another defense, as a grid has them for CBPT
    config = settings if isinstance(settings, Config) else made.config_class.build(dict(settings or {}))
    return made(config if seed is None else config.model_copy(update={"seed": seed}))


def defend(
    model: DualEncoder,
    shots: LabelledImages,
    name: str,
    settings: Mapping[str, Any] | Config | None = None,
    *,
    seed: int | None = None,
    base: DualEncoder | None = None,
    truth: Truth | None = None,
) -> Defended:
    """Runs a defense by its name.

    Args:
        model: The suspect; left as it is.
        shots: A few clean labelled images per class.
        name: One of `clip-antidote ls defenses`.
        settings: Its settings by their names, or whole; defaults for what is not named.
        seed: Seed of everything random; wins over that of the settings.
        base: A trusted model of the same architecture, for defenses that need one.
        truth: What the attacker knows; kept from every defense that is no oracle.

    Raises:
        UsageError: There is no such defense or setting.
        RefusedError: It cannot run with what it is given; the sentence says why.
    """
    defense = make_defense(name, settings, seed=seed)
    given = Given(model, shots, base, truth)
    reason = refusal(name, defense.profile, given)
    if reason is not None:
        raise RefusedError(reason)
    if not defense.profile.needs.truth:
        given = replace(given, truth=None)
    with peak_memory() as peak:
        start = time.perf_counter()
        made = defense.apply(given)
        seconds = round(time.perf_counter() - start, 2)
    return Defended(
        name=name,
        profile=defense.profile,
        settings=defense.config,
        classifier=made.classifier,
        clean_images=len(shots) if defense.profile.needs.shots else 0,
        trained=made.trained,
        seconds=seconds,
        peak_memory=peak,
        details=made.details,
        tensors=made.tensors,
    )
