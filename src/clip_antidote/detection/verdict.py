"""The verdict on a suspect model: whether something is hidden in it, for which class, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

from clip_antidote.config import Record
from clip_antidote.detection.evidence import FittedEvidence, model_score
from clip_antidote.detection.outliers import FEWEST
from clip_antidote.detection.statistics import FORM, STATISTICS, counted_scores, form_scores, outlier_scores
from clip_antidote.detection.survey import Survey
from clip_antidote.inversion.config import InversionConfig

ALARM = InversionConfig().alarm
"""A model is called suspicious where its p-value is at most this, see `is_suspicious`."""

SHOWN = 5
"""How many classes a verdict lists."""


class Finding(Record):
    """One statistic of one class.

    Attributes:
        statistic: Its name, see `STATISTICS`.
        value: The value.
        z: How far it stands out among the classes, in standard normal units; positive is suspicious.
        weight: What it adds to the evidence, in nats.
    """

    statistic: str
    value: float
    z: float
    weight: float

    @property
    def meaning(self) -> str:
        """What it says, as a clause about the class."""
        known = STATISTICS.get(self.statistic)
        return known.meaning if known else f"it stands out by '{self.statistic}', which an earlier version measured"


class ClassVerdict(Record):
    """What is held against one class.

    Attributes:
        label: Class index.
        name: Class name.
        score: Evidence that it is the target, in nats: its log likelihood ratio plus what blameless classes have to
            exceed. At least 0.
        share: Probability that it is the target, if there is one among the classes.
        findings: What speaks for it, the strongest first.
    """

    label: int
    name: str
    score: float
    share: float
    findings: tuple[Finding, ...]


class Verdict(Record):
    """Whether a model is suspicious.

    Attributes:
        suspicious: Whether the p-value is at most `alarm`, a backdoor is more likely than none, and for a class that
            stands out there is a trigger that works, see `confirm`.
        score: Evidence against the model: log of the mean likelihood ratio over the classes.
        probability: Of a backdoor, where one model in two has one.
        p_value: Share of clean models that look as suspicious, this one counted among them.
        needed: What the evidence against a single class has to exceed, so that it alone makes the model suspicious;
            None where there are too few clean models for this alarm.
        least_p: The smallest p-value there can be, with so many clean models.
        alarm: The p-value from which on a model is suspicious.
        clean_models: How many clean models it was compared with.
        towers: Kinds of image tower among them.
        classes: How many classes were looked at.
        shots: Images per class.
        targets: Suspected targets: empty unless the model is suspicious.
        unconfirmed: Classes that stand out as a target does, without a trigger that works; nobody accuses them.
        ranking: The classes with the most evidence, suspected or not.
    """

    suspicious: bool
    score: float
    probability: float
    p_value: float
    needed: float | None
    least_p: float
    alarm: float
    clean_models: int
    towers: tuple[str, ...]
    classes: int
    shots: float
    targets: tuple[str, ...]
    unconfirmed: tuple[str, ...] = ()
    ranking: tuple[ClassVerdict, ...]


def judge_survey(
    survey: Survey, names: Sequence[str], fitted: FittedEvidence, *, alarm: float = ALARM, most: int = 3
) -> Verdict:
    """Judges a model by a survey of its classes.

    Args:
        survey: What was measured.
        names: Class names.
        fitted: How it becomes evidence.
        alarm: The p-value from which on a model is suspicious.
        most: Most targets to suspect.
    """
    scores = fitted.class_scores(survey.values)
    score = model_score(scores)
    p_value, clean = judge_score(score, len(names), survey.shots, fitted)
    suspicious = is_suspicious(score, p_value, alarm)
    targets = suspect_classes(survey, fitted, alarm=alarm, most=most) if suspicious else []
    return Verdict(
        suspicious=suspicious,
        score=score,
        probability=1 / (1 + math.exp(-min(max(score, -500), 500))),
        p_value=p_value,
        needed=evidence_needed(len(names), survey.shots, fitted, alarm),
        least_p=1 / (clean + 1),
        alarm=alarm,
        clean_models=clean,
        towers=tuple(sorted({model.tower for model in fitted.null})),
        classes=len(names),
        shots=survey.shots,
        targets=tuple(names[label] for label in targets),
        ranking=rank(survey, names, fitted, scores),
    )


def is_suspicious(score: float, p_value: float, alarm: float) -> bool:
    """Whether few clean models look as suspicious, and a backdoor is more likely than none.

    A clean model of an unusual kind may lie above most clean ones of the population, and still have more that speaks
    for it than against it. An alarm of 1 accuses every model.
    """
    return p_value <= alarm and (score > 0 or alarm >= 1)


def confirm(verdict: Verdict, working: Collection[str]) -> Verdict:
    """Takes back what no trigger bears out: a class is accused only where one sends most images there.

    A class may stand out without any poison, since texts or photographs of one color set it apart. Its loudest form
    then reaches some images easily, and the others hardly, however long it is optimized.

    Args:
        verdict: What the survey says.
        working: Names of the classes for which the loudest form gave a trigger that works.
    """
    targets = tuple(name for name in verdict.targets if name in working)
    unconfirmed = tuple(name for name in verdict.targets if name not in working)
    return verdict.model_copy(
        update={"targets": targets, "unconfirmed": unconfirmed, "suspicious": bool(targets)},
    )


def judge_score(score: float, classes: int, shots: float, fitted: FittedEvidence) -> tuple[float, int]:
    """Returns the p-value and the number of clean models behind it; 1 where too few classes are there to compare."""
    if classes < FEWEST:
        return 1.0, len(fitted.null)
    return fitted.p_value(score, classes=classes, shots=shots)


def evidence_needed(classes: int, shots: float, fitted: FittedEvidence, alarm: float) -> float | None:
    """Returns what the evidence against a single class has to exceed, where that against all others is none."""
    needed = fitted.score_needed(alarm, classes=classes, shots=shots) if classes >= FEWEST else None
    return None if needed is None or math.isinf(needed) else max(needed, 0.0) + math.log(classes) + fitted.offset


def suspect_classes(survey: Survey, fitted: FittedEvidence, *, alarm: float = ALARM, most: int) -> list[int]:
    """Names the targets of a suspicious model, one after the other.

    The first is the class with the most evidence. It is taken out, since two targets hide each other by widening the
    spread, and the rest is judged again: for a further one to be named, few poisoned models may look as suspicious
    without their one target, see `FittedEvidence.beside`.
    """
    rest = torch.arange(len(next(iter(survey.values.values()))))
    found: list[int] = []
    while len(found) < most and len(rest) >= FEWEST:
        scores = fitted.class_scores({name: value[rest] for name, value in survey.values.items()})
        score = model_score(scores)
        p_value = fitted.further_p_value(score, classes=len(rest), shots=survey.shots)
        if found and not is_suspicious(score, p_value, min(alarm, ALARM)):
            break
        found.append(int(rest[scores.argmax()]))
        rest = rest[rest != found[-1]]
    return found


def rank(
    survey: Survey, names: Sequence[str], fitted: FittedEvidence, scores: torch.Tensor
) -> tuple[ClassVerdict, ...]:
    """Lists the classes with the most evidence against them, and what speaks for it."""
    outliers, counted, shares = outlier_scores(survey.values), counted_scores(survey.values), scores.softmax(0)
    ranking = []
    for label in scores.topk(min(SHOWN, len(scores))).indices.tolist():
        findings = []
        for name, weight in fitted.weights.items():
            shown = next(iter(form_scores(survey.values, label))) if name == FORM else name
            finding = Finding(
                statistic=shown,
                value=float(survey.values[shown][label]),
                z=float(outliers[shown][label]),
                weight=weight * max(float(counted[name][label]), 0.0),
            )
            findings.append(finding)
        strongest = sorted((f for f in findings if f.weight > 0), key=lambda f: -f.weight)
        ranking.append(
            ClassVerdict(
                label=label,
                name=names[label],
                score=float(scores[label]) + fitted.offset,
                share=float(shares[label]),
                findings=tuple(strongest),
            )
        )
    return tuple(ranking)
