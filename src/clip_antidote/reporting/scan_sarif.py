"""A scan as SARIF: its rules, and what they refer to in MITRE ATLAS and in the OWASP list of machine learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clip_antidote.reporting.sarif import Level, SarifArtifact, SarifResult, SarifRule, atlas, owasp, sarif_log
from clip_antidote.reporting.scan_report import ScanReport, in_words, standing_out

ATLAS = {
    "AML.T0018": "Manipulate AI Model",
    "AML.T0020": "Poison Training Data",
    "AML.T0043.004": "Craft Adversarial Data: Insert Backdoor Trigger",
}
"""Techniques by their id."""

OWASP = {"ML10:2023": "Model Poisoning"}
"""Entries by their id."""

SUSPECTED, UNCONFIRMED = "backdoor-suspected", "backdoor-unconfirmed"
NOTHING, LESS_SURE = "no-backdoor-found", "verdict-less-sure"

RULES = (
    SarifRule(
        id=SUSPECTED,
        level="error",
        summary="The model behaves as if a hidden trigger sends any image to one class.",
        advice="Do not use the model as it is; take another one, or purify it by clip-antidote purify.",
        taxa=(*ATLAS, *OWASP),
    ),
    SarifRule(
        id=UNCONFIRMED,
        level="warning",
        summary="A class stands out as the target of a hidden trigger does, but no trigger that works was found.",
        advice="Purify the model by clip-antidote purify, which guards the class, or scan it with other images.",
        taxa=(*ATLAS, *OWASP),
    ),
    SarifRule(
        id=NOTHING,
        level="note",
        summary="No class stands out as the target of a hidden trigger, which is no proof that there is none.",
        advice="Read what a scan cannot see before the model is trusted.",
        taxa=(*ATLAS, *OWASP),
    ),
    SarifRule(
        id=LESS_SURE,
        level="warning",
        summary="Something about the model or the images makes the verdict less sure.",
        advice="Give more classes or images, or look at the model by clip-antidote inspect.",
    ),
)


def scan_sarif(report: ScanReport, artifacts: Sequence[SarifArtifact] = ()) -> dict[str, Any]:
    """Returns a scan as a SARIF log; its `properties` hold the whole report.

    Args:
        report: The scan.
        artifacts: The files of the model, the weights first; results point to that one.
    """
    file = artifacts[0].file if artifacts else ""
    results = [*_verdict(report, file), *(_warning(sentence, file) for sentence in report.warnings)]
    return sarif_log(
        RULES,
        results,
        artifacts=artifacts,
        taxonomies=[atlas(ATLAS), owasp(OWASP)],
        properties={"scan": report.to_json()},
    )


def _verdict(report: ScanReport, file: str) -> list[SarifResult]:
    verdict = report.verdict
    facts = {"p_value": verdict.p_value, "probability": verdict.probability, "score": verdict.score}
    if not (verdict.targets or verdict.unconfirmed):
        message = f"nothing found ({report.reason})"
        return [SarifResult(rule=NOTHING, level="note", message=message, file=file, properties=facts)]
    ranked = {entry.name: entry for entry in verdict.ranking}

    def result(rule: str, level: Level, name: str, message: str) -> SarifResult:
        words = list(in_words(ranked[name])) if name in ranked else []
        return SarifResult(
            rule=rule,
            level=level,
            message=f"{message} ({report.reason})",
            file=file,
            part=name,
            kind="class",
            properties={**facts, "evidence": words},
        )

    likely = [result(SUSPECTED, "error", name, f"a backdoor for '{name}' is likely") for name in verdict.targets]
    return likely + [result(UNCONFIRMED, "warning", name, standing_out((name,))) for name in verdict.unconfirmed]


def _warning(sentence: str, file: str) -> SarifResult:
    return SarifResult(rule=LESS_SURE, level="warning", message=sentence, file=file)
