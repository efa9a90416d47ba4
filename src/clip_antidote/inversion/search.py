"""Stage 1: which class is the target, and dummy triggers for it; found, or told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from clip_antidote.errors import DataError
from clip_antidote.inversion.alignment import alignment, best_similarity, closest_similarity
from clip_antidote.inversion.bank import Dummy, invert_bank, make_bank, measure_bank
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.evidence import FEWEST, combine_z, outlier_z
from clip_antidote.inversion.families import DummyBank
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.scoring import ClassScore, Signals, judge
from clip_antidote.inversion.views import Observation
from clip_antidote.triggers.base import Trigger

SAMPLE = 128
"""Views on which dummy triggers are measured, the same for all of them."""


@dataclass(frozen=True)
class SearchResult:
    """What stage 1 found.

    Attributes:
        targets: The suspected targets, the most suspicious first; empty where nothing stands out.
        guarded: The classes to guard: the suspected targets, then others that come near. A guard accuses nobody.
        dummies: Dummy triggers of the guarded classes; empty where there is none.
        scores: The evidence, highest score first.
    """

    targets: tuple[int, ...]
    guarded: tuple[int, ...] = ()
    dummies: tuple[Dummy, ...] = ()
    scores: tuple[ClassScore, ...] = ()


TargetSource = Callable[[Observation, InversionConfig, int], SearchResult]
"""Where targets and dummies come from, given the observation, settings and a seed."""


def search_targets(
    seen: Observation, config: InversionConfig, seed: int, *, inverter: type[Inverter] = Inverter
) -> SearchResult:
    """Looks for the target without being told: shortlist, screening, evidence, dummies for what is to be guarded.

    Suspected targets get a bank of their own. Other guarded classes keep what the screening found for them, with
    some more steps.

    Args:
        seen: The suspect and its views.
        config: Settings.
        seed: Seed of triggers and batches.
        inverter: How dummy triggers are optimized.
    """
    generator = torch.Generator().manual_seed(seed)
    engine = inverter(seen, config, generator=generator)
    rows = torch.randperm(len(seen.pool), generator=generator)[:SAMPLE]
    signals, banks = measure_signals(engine, seen, rows=rows, seed=seed)
    found, rest = choose_targets(signals, config)
    targets = tuple(entry.label for entry in found)
    others = choose_guarded(rest, most_guarded(len(seen.weights), config.guarded) - len(found))
    dummies = [dummy for target in targets for dummy in invert_bank(engine, target, rows=rows, seed=seed)]
    if others:
        dummies += refine(engine, banks, signals.shortlist, others, rows=rows)
    return SearchResult(targets, (*targets, *others), tuple(dummies), (*found, *rest))


def measure_signals(
    engine: Inverter, seen: Observation, *, rows: torch.Tensor, seed: int
) -> tuple[Signals, list[DummyBank]]:
    """Measures text against images for all classes, and the ease of inversion of a shortlist.

    The shortlist takes the classes whose text and images disagree most, then those whose text is farthest from any
    image: a real target leads in the one or the other.

    Returns:
        What was measured, and the triggers of the shortlist, a bank per family.
    """
    config, pool = engine.config, seen.pool
    agreement = torch.stack(
        [alignment(seen.weights, seen.centroids()), best_similarity(pool.features, pool.labels, seen.weights)]
    )
    closeness = closest_similarity(pool.features, seen.weights)
    suspicion = combine_z([outlier_z(row) for row in agreement])
    suspects = suspicion.topk(min(config.shortlist, len(suspicion))).indices
    rest = closeness.index_fill(0, suspects, torch.inf)
    far = rest.topk(min(config.far, len(rest) - len(suspects)), largest=False).indices
    shortlist = torch.cat([suspects, far])
    objectives, banks = screen(engine, shortlist, rows=rows, seed=seed)
    return Signals(agreement, shortlist, objectives, closeness, len(suspects), seen.shots_per_class), banks


def screen(
    engine: Inverter, hypotheses: torch.Tensor, *, rows: torch.Tensor, seed: int
) -> tuple[torch.Tensor, list[DummyBank]]:
    """Inverts one trigger per hypothesis [H] for a few steps, per family.

    Returns:
        The log objectives [F, H], and the banks. The objective is positive and skewed: "half of what the others
        need" counts, not "0.3 less".
    """
    config, out, banks = engine.config, [], []
    for family in config.families:
        strength = config.screen_sparsity if family == "mask" else config.screen_bound
        bank = make_bank(family, [strength] * len(hypotheses), engine.image_size, seed)
        engine.run(bank, hypotheses, steps=config.screen_steps, description=f"screening targets ({family})")
        objective = engine.stats(bank, hypotheses, rows=rows).objective
        out.append(objective.clamp_min(torch.finfo(objective.dtype).tiny).log())  # 0 is as easy as can be
        banks.append(bank)
    return torch.stack(out), banks


def refine(
    engine: Inverter, banks: Sequence[DummyBank], screened: torch.Tensor, labels: Sequence[int], *, rows: torch.Tensor
) -> list[Dummy]:
    """Goes on with the screening's triggers of some classes, all of them in one batch per family.

    Args:
        engine: Optimizes and measures.
        banks: The triggers of the screening, a bank per family.
        screened: Class index of every trigger of a bank [H].
        labels: The classes to go on with, all of them among `screened`.
        rows: Views on which the dummies are measured.
    """
    hypotheses = torch.tensor(labels)
    chosen = (screened == hypotheses[:, None]).int().argmax(1)
    dummies = []
    for bank in banks:
        own = bank.select(chosen)
        engine.run(own, hypotheses, steps=engine.config.guard_steps, description=f"inverting triggers ({bank.name})")
        dummies += measure_bank(engine, own, hypotheses, rows=rows)
    return dummies


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


def choose_targets(signals: Signals, config: InversionConfig) -> tuple[list[ClassScore], list[ClassScore]]:
    """Takes what stands out, one class after the other.

    Two targets hide each other by widening the spread, so what was found is taken out and the rest is
    compared again, until nothing stands out.

    Returns:
        The evidence against the suspected targets, and against the rest.
    """
    found: list[ClassScore] = []
    while True:
        taken = torch.tensor([entry.label for entry in found], dtype=torch.long)
        scores = judge(signals, taken)
        needed = config.further_threshold if found else config.score_threshold
        if not scores or scores[0].score < needed or len(found) == config.max_targets:
            return found, scores
        found.append(scores[0])


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
