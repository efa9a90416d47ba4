"""A scan: all classes are surveyed, the survey is judged, and suspected targets get dummy triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clip_antidote.detection.evidence import FittedEvidence, embedded_evidence
from clip_antidote.detection.forms import easiest_forms, invert_answering
from clip_antidote.detection.survey import Survey, survey_classes
from clip_antidote.detection.verdict import Verdict, confirm, judge_survey
from clip_antidote.inversion.bank import Dummy, invert_bank
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.views import Observation
from clip_antidote.stopwatch import Stopwatch

SAMPLE = 128
"""Views on which dummy triggers are measured, the same for all of them."""


@dataclass(frozen=True)
class Scanned:
    """What a scan found.

    Attributes:
        survey: What was measured of every class.
        evidence: Evidence against every class in nats [C], at least 0.
        verdict: The judgment.
        dummies: Dummy triggers of the suspected targets, and of what stands out unconfirmed, in the order of the
            evidence; none where nothing stands out.
    """

    survey: Survey
    evidence: torch.Tensor
    verdict: Verdict
    dummies: tuple[Dummy, ...]


def scan_model(
    seen: Observation,
    config: InversionConfig,
    seed: int,
    fitted: FittedEvidence | None = None,
    *,
    inverter: type[Inverter] = Inverter,
    watch: Stopwatch | None = None,
) -> Scanned:
    """Says whether a suspect has a backdoor, and for which class.

    Args:
        seen: The suspect and its views.
        config: Settings; the evidence is fitted to the default survey.
        seed: Seed of triggers and batches.
        fitted: How a survey becomes evidence; what comes with the package by default.
        inverter: How triggers are optimized.
        watch: Times the stages "survey" and "triggers".

    Raises:
        ModelError: The model leads to losses that are not finite.
    """
    watch, fitted = watch or Stopwatch(), fitted or embedded_evidence()
    with watch.stage("survey"):
        survey = survey_classes(seen, config.survey, seed=seed)
        verdict = judge_survey(survey, seen.classes, fitted, alarm=config.alarm, most=config.max_targets)
    with watch.stage("triggers"):
        labels = [seen.classes.index(name) for name in verdict.targets]
        dummies = invert_targets(seen, labels, config, seed=seed, inverter=inverter, survey=survey)
        if labels and config.form_steps and config.alarm < 1:
            verdict = confirm(verdict, [seen.classes[label] for label in borne_out(dummies, survey)])
    return Scanned(survey, fitted.class_scores(survey.values) + fitted.offset, verdict, dummies)


def invert_targets(
    seen: Observation,
    labels: Sequence[int],
    config: InversionConfig,
    *,
    seed: int,
    inverter: type[Inverter] = Inverter,
    survey: Survey | None = None,
) -> tuple[Dummy, ...]:
    """Inverts the final bank of dummy triggers of every target, and one of the form that reaches it most easily.

    Args:
        seen: The suspect and its views.
        labels: Class indices.
        config: Settings: families, strengths, steps.
        seed: Seed of triggers and batches.
        inverter: How triggers are optimized.
        survey: Says which form that is; without it there is none.
    """
    if not labels:
        return ()
    engine, rows = start_engine(seen, config, seed=seed, inverter=inverter)
    dummies: list[Dummy] = []
    for label in labels:
        dummies += invert_bank(engine, label, rows=rows, seed=seed)
        if survey is not None and config.form_steps:
            forms = easiest_forms(survey.values, label)
            dummies.append(invert_answering(seen, config, forms, label, rows, seed=seed))
    return tuple(dummies)


def borne_out(dummies: Sequence[Dummy], survey: Survey) -> set[int]:
    """Returns the classes whose loudest form has a dummy trigger that sends nearly all images there.

    Other forms do not count: an opaque patch that looks like a class leads to it in any model.
    """
    return {
        dummy.target
        for dummy in dummies
        if dummy.answers and dummy.family == easiest_forms(survey.values, dummy.target)[0]
    }


def start_engine(
    seen: Observation, config: InversionConfig, *, seed: int, inverter: type[Inverter] = Inverter
) -> tuple[Inverter, torch.Tensor]:
    """Returns what optimizes dummy triggers, and the views on which they are measured."""
    generator = torch.Generator().manual_seed(seed)
    engine = inverter(seen, config, generator=generator)
    return engine, torch.randperm(len(seen.pool), generator=generator)[:SAMPLE]
