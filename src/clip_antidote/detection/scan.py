"""A scan: all classes are surveyed, the survey is judged, and a suspected target gets dummy triggers to look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clip_antidote.detection.config import SurveyConfig
from clip_antidote.detection.evidence import FittedEvidence, embedded_evidence
from clip_antidote.detection.survey import Survey, survey_classes
from clip_antidote.detection.verdict import ALARM, Verdict, judge_survey
from clip_antidote.inversion.bank import Dummy, invert_bank
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.search import SAMPLE
from clip_antidote.inversion.views import Observation
from clip_antidote.stopwatch import Stopwatch


@dataclass(frozen=True)
class Scanned:
    """What a scan found.

    Attributes:
        survey: What was measured of every class.
        verdict: The judgment.
        dummies: Dummy triggers of the suspected targets, in the order of the targets; none where there is none.
    """

    survey: Survey
    verdict: Verdict
    dummies: tuple[Dummy, ...]


def scan_model(
    seen: Observation,
    survey: SurveyConfig,
    inversion: InversionConfig,
    seed: int,
    fitted: FittedEvidence | None = None,
    *,
    alarm: float = ALARM,
    inverter: type[Inverter] = Inverter,
    watch: Stopwatch | None = None,
) -> Scanned:
    """Says whether a suspect has a backdoor, and for which class.

    Args:
        seen: The suspect and its views.
        survey: Settings of the survey; the evidence is fitted to the default.
        inversion: Settings of the inversion, of the survey and of the dummy triggers.
        seed: Seed of triggers and batches.
        fitted: How a survey becomes evidence; what comes with the package by default.
        alarm: The p-value from which on a model is suspicious, in (0, 1].
        inverter: How triggers are optimized.
        watch: Times the stages "survey" and "triggers".

    Raises:
        ModelError: The model leads to losses that are not finite.
    """
    watch = watch or Stopwatch()
    with watch.stage("survey"):
        measured = survey_classes(seen, survey, inversion, seed=seed, inverter=inverter)
        verdict = judge_survey(measured, seen.classes, fitted or embedded_evidence(), alarm=alarm)
    with watch.stage("triggers"):
        dummies = invert_targets(seen, verdict.targets, inversion, seed=seed, inverter=inverter)
    return Scanned(measured, verdict, dummies)


def invert_targets(
    seen: Observation,
    targets: tuple[str, ...],
    inversion: InversionConfig,
    *,
    seed: int,
    inverter: type[Inverter] = Inverter,
) -> tuple[Dummy, ...]:
    """Inverts the bank of dummy triggers of every target, as the search of a purification does.

    Args:
        seen: The suspect and its views.
        targets: Names of the classes.
        inversion: Settings: families, strengths, steps.
        seed: Seed of triggers and batches.
        inverter: How triggers are optimized.
    """
    if not targets:
        return ()
    generator = torch.Generator().manual_seed(seed)
    engine = inverter(seen, inversion, generator=generator)
    rows = torch.randperm(len(seen.pool), generator=generator)[:SAMPLE]
    labels = [seen.classes.index(name) for name in targets]
    return tuple(dummy for label in labels for dummy in invert_bank(engine, label, rows=rows, seed=seed))
