"""Stage 1: which class is the target, and dummy triggers for it; found, or told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from clip_antidote.detection.evidence import FittedEvidence
from clip_antidote.detection.forms import easiest_forms, invert_answering
from clip_antidote.detection.outliers import FEWEST
from clip_antidote.detection.scan import scan_model, start_engine
from clip_antidote.detection.scores import ClassScore, class_scores
from clip_antidote.detection.statistics import stands_out
from clip_antidote.detection.survey import Survey
from clip_antidote.detection.verdict import Verdict
from clip_antidote.errors import DataError
from clip_antidote.inversion.bank import Dummy, make_bank, measure_bank
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.views import Observation
from clip_antidote.triggers.base import Trigger


@dataclass(frozen=True)
class SearchResult:
    """What stage 1 found.

    Attributes:
        targets: The classes that stand out as targets do, whether a trigger bears it out or not, see `Verdict`;
            empty where none does.
        guarded: The classes to guard: the targets, then others that come near. A guard accuses nobody.
        dummies: Dummy triggers of the guarded classes; empty where there is none.
        scores: The evidence against the most suspicious classes, highest score first.
        verdict: Whether the model is suspicious; None from a source that is told.
    """

    targets: tuple[int, ...]
    guarded: tuple[int, ...] = ()
    dummies: tuple[Dummy, ...] = ()
    scores: tuple[ClassScore, ...] = ()
    verdict: Verdict | None = None


TargetSource = Callable[[Observation, InversionConfig, int], SearchResult]
"""Where targets and dummies come from, given the observation, settings and a seed."""


def search_targets(
    seen: Observation,
    config: InversionConfig,
    seed: int,
    *,
    inverter: type[Inverter] = Inverter,
    fitted: FittedEvidence | None = None,
) -> SearchResult:
    """Looks for the target without being told: survey, verdict, dummies for what is to be guarded.

    What stands out gets a bank of its own, and the strictness of a target even where it is not accused; other guarded
    classes get fewer and shorter ones.

    Args:
        seen: The suspect and its views.
        config: Settings.
        seed: Seed of triggers and batches.
        inverter: How dummy triggers are optimized.
        fitted: How a survey becomes evidence; that of the package by default.
    """
    scanned = scan_model(seen, config, seed, fitted, inverter=inverter)
    outstanding = (*scanned.verdict.targets, *scanned.verdict.unconfirmed)
    targets = tuple(seen.classes.index(name) for name in outstanding)
    scores = class_scores(scanned.survey, scanned.evidence)
    guarded = guarded_classes(scores, targets, config.guarded)
    others, dummies = guarded[len(targets) :], scanned.dummies
    if others:
        engine, rows = start_engine(seen, config, seed=seed, inverter=inverter)
        inverted = invert_others(engine, others, rows=rows, seed=seed)
        dummies += tuple(inverted + invert_unanswered(seen, config, inverted, scanned.survey, rows=rows, seed=seed))
    return SearchResult(targets, guarded, dummies, scores, scanned.verdict)


def invert_others(engine: Inverter, labels: Sequence[int], *, rows: torch.Tensor, seed: int) -> list[Dummy]:
    """Inverts a trigger per family for each class that is guarded without being suspected, all in one batch.

    Args:
        engine: Optimizes and measures.
        labels: The classes.
        rows: Views on which the dummies are measured.
        seed: Seed of where the triggers start.
    """
    config, hypotheses, dummies = engine.config, torch.tensor(labels), []
    for family in config.families:
        strength = config.guard_sparsity if family == "mask" else config.guard_bound
        bank = make_bank(family, [strength] * len(labels), engine.image_size, seed)
        engine.run(bank, hypotheses, steps=config.guard_steps, description=f"inverting triggers ({family})")
        dummies += measure_bank(engine, bank, hypotheses, rows=rows)
    return dummies


def invert_unanswered(
    seen: Observation,
    config: InversionConfig,
    dummies: Sequence[Dummy],
    survey: Survey,
    *,
    rows: torch.Tensor,
    seed: int,
) -> list[Dummy]:
    """Makes one more dummy, of the form that reaches it most easily, for guarded classes that no dummy reaches.

    A gate fitted to dummies that send nothing to its class is none. It matters where a form reaches the class more
    easily than blameless ones are reached: then it may be a target that others hide.

    Args:
        seen: The suspect and its views.
        config: Settings.
        dummies: What was inverted for the classes, see `invert_others`.
        survey: Says which forms those are.
        rows: Views on which the dummies are measured.
        seed: Seed of where the triggers start.
    """
    if not config.form_steps:
        return []
    answered = {dummy.target for dummy in dummies if dummy.answers}
    left = [label for label in dict.fromkeys(dummy.target for dummy in dummies) if label not in answered]
    return [
        invert_answering(seen, config, easiest_forms(survey.values, label), label, rows, seed=seed)
        for label in left
        if stands_out(survey.values, label)
    ]


def guarded_classes(scores: Sequence[ClassScore], targets: Sequence[int], limit: int) -> tuple[int, ...]:
    """Returns the classes to guard: the suspected targets, then others that come near.

    Args:
        scores: The evidence against every class.
        targets: Class indices of the suspected targets.
        limit: No more than this, unless more are suspected; see `most_guarded`.
    """
    rest = [entry for entry in scores if entry.label not in targets]
    return (*targets, *choose_guarded(rest, most_guarded(len(scores), limit) - len(targets)))


def most_guarded(classes: int, limit: int) -> int:
    """How many classes to guard at most: a tenth of them, so that it costs little where none is a target.

    Args:
        classes: Number of classes; where nothing can stand out, none is guarded, else at least one.
        limit: No more than this.
    """
    return min(limit, max(1, classes // 10)) if classes >= FEWEST else 0


def choose_guarded(scores: Sequence[ClassScore], count: int) -> tuple[int, ...]:
    """Chooses blameless classes that come nearest to a target, by each kind of evidence in turn.

    Each kind of evidence ranks a real target differently from model to model, so the first of every ranking is
    taken, then the second of every one, and so on.

    Args:
        scores: The evidence against the classes.
        count: How many to choose; fewer where there are fewer.
    """
    kinds = [
        [entry.score for entry in scores],
        [-math.inf if entry.distance is None else entry.distance for entry in scores],
        [-math.inf if entry.inversion is None else entry.inversion for entry in scores],
        [entry.alignment for entry in scores],
    ]
    return tuple(scores[i].label for i in in_turn(kinds)[: max(0, count)])


def in_turn(rankings: Sequence[Sequence[float]]) -> list[int]:
    """Merges rankings of the same things, given by their values: all firsts, then all seconds, each thing once."""
    orders = [sorted(range(len(values)), key=lambda i: (-values[i], i)) for values in rankings]
    return list(dict.fromkeys(i for places in zip(*orders, strict=True) for i in places))


def known_triggers(triggers: Sequence[Trigger], target: str | None = None) -> TargetSource:
    """A source that is told: the true trigger gives the ceiling, no trigger prompts tuned on clean images alone.

    Args:
        triggers: Stand in for the dummies.
        target: Name of the target class they belong to.

    Returns:
        A source; it raises DataError where `target` is not one of the classes.
    """

    def tell(seen: Observation, config: InversionConfig, seed: int) -> SearchResult:
        if target not in seen.classes:
            if target is None and not triggers:
                return SearchResult(())
            raise DataError(f"the target '{target}' is not one of the {len(seen.classes)} classes")
        label = seen.classes.index(target)
        return SearchResult((label,), (label,), tuple(Dummy(trigger, trigger.name, label) for trigger in triggers))

    return tell
