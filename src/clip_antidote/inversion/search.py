"""Stage 1: which class is the target, and dummy triggers for it; found, or told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from clip_antidote.errors import DataError
from clip_antidote.inversion.alignment import alignment, best_similarity
from clip_antidote.inversion.bank import Dummy, invert_bank, make_bank
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.evidence import combine_z, outlier_z
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
        dummies: Dummy triggers of the suspected targets; empty where there is none.
        scores: The evidence, highest score first.
    """

    targets: tuple[int, ...]
    dummies: tuple[Dummy, ...] = ()
    scores: tuple[ClassScore, ...] = ()


TargetSource = Callable[[Observation, InversionConfig, int], SearchResult]
"""Where targets and dummies come from, given the observation, settings and a seed."""


def search_targets(
    seen: Observation, config: InversionConfig, seed: int, *, inverter: type[Inverter] = Inverter
) -> SearchResult:
    """Looks for the target without being told: shortlist, screening, evidence, a bank of dummies for what is found.

    Args:
        seen: The suspect and its views.
        config: Settings.
        seed: Seed of triggers and batches.
        inverter: How dummy triggers are optimized.
    """
    generator = torch.Generator().manual_seed(seed)
    engine = inverter(seen, config, generator=generator)
    rows = torch.randperm(len(seen.pool), generator=generator)[:SAMPLE]
    found, rest = choose_targets(measure_signals(engine, seen, rows=rows, seed=seed), config)
    dummies = [dummy for entry in found for dummy in invert_bank(engine, entry.label, rows=rows, seed=seed)]
    return SearchResult(tuple(entry.label for entry in found), tuple(dummies), (*found, *rest))


def measure_signals(engine: Inverter, seen: Observation, *, rows: torch.Tensor, seed: int) -> Signals:
    """Measures the disagreement of all classes, and the ease of inversion of those that disagree most."""
    config, pool = engine.config, seen.pool
    agreement = torch.stack(
        [alignment(seen.weights, seen.centroids()), best_similarity(pool.features, pool.labels, seen.weights)]
    )
    suspicion = combine_z([outlier_z(row) for row in agreement])
    shortlist = suspicion.topk(min(config.shortlist, len(suspicion))).indices
    return Signals(agreement, shortlist, screen(engine, shortlist, rows=rows, seed=seed), seen.shots_per_class)


def screen(engine: Inverter, hypotheses: torch.Tensor, *, rows: torch.Tensor, seed: int) -> torch.Tensor:
    """Inverts one trigger per hypothesis [H] for a few steps, per family, and returns the log objectives [F, H].

    The objective is positive and skewed: "half of what the others need" counts, not "0.3 less".
    """
    config, out = engine.config, []
    for family in config.families:
        strength = config.screen_sparsity if family == "mask" else config.screen_bound
        bank = make_bank(family, [strength] * len(hypotheses), engine.image_size, seed)
        engine.run(bank, hypotheses, steps=config.screen_steps, description=f"screening targets ({family})")
        objective = engine.stats(bank, hypotheses, rows=rows).objective
        out.append(objective.clamp_min(torch.finfo(objective.dtype).tiny).log())  # 0 is as easy as can be
    return torch.stack(out)


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
        return SearchResult((label,), tuple(Dummy(trigger, trigger.name, label) for trigger in triggers))

    return tell
