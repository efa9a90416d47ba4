"""A scan as a CycloneDX 1.7 bill of materials of one machine-learning model, with the verdict in its model card."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from clip_antidote.reporting.scan_report import ScanReport

SCHEMA = "http://cyclonedx.org/schema/bom-1.7.schema.json"
SPEC_VERSION = "1.7"
TASK = "zero-shot-image-classification"
FAMILY = "contrastive dual encoder (CLIP)"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:clip-antidote:scan")
_SHA256 = re.compile("[0-9a-f]{64}")


def scan_cyclonedx(report: ScanReport) -> dict[str, Any]:
    """Returns the bill of materials, ready to be written as JSON.

    The serial number follows from the content, so that the same verdict on the same model has the same one; the time
    of the scan is no part of that.
    """
    bom: dict[str, Any] = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {"tools": {"components": [_tool(report)]}},
        "components": [_model(report)],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(bom, sort_keys=True))
    if report.created:
        bom["metadata"] = {"timestamp": report.created, **bom["metadata"]}
    return {**bom, "serialNumber": f"urn:uuid:{serial}"}


def _tool(report: ScanReport) -> dict[str, Any]:
    tool = {"type": "application", "name": report.tool}
    version = report.versions.get("clip_antidote")
    return {**tool, "version": version} if version else tool


def _model(report: ScanReport) -> dict[str, Any]:
    verdict, model = report.verdict, report.model
    unaccused = "not confirmed" if verdict.unconfirmed else "nothing found"
    properties = {
        "verdict": "suspicious" if verdict.suspicious else unaccused,
        "alarm": repr(verdict.alarm),
        "clean-models": str(verdict.clean_models),
        "seed": str(report.seed),
    }
    described = [{"name": f"clip-antidote:{key}", "value": value} for key, value in properties.items()]
    described += [{"name": "clip-antidote:suspected-target", "value": name} for name in verdict.targets]
    described += [{"name": "clip-antidote:unconfirmed-target", "value": name} for name in verdict.unconfirmed]
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{model.sha256 or model.public_spec}",
        "name": model.public_spec,
    }
    if _SHA256.fullmatch(model.sha256):
        component["hashes"] = [{"alg": "SHA-256", "content": model.sha256}]
    return {**component, "modelCard": _card(report), "properties": described}


def _card(report: ScanReport) -> dict[str, Any]:
    verdict = report.verdict
    parameters = {"task": TASK, "architectureFamily": FAMILY}
    if report.model.architecture:
        parameters["modelArchitecture"] = report.model.architecture
    looked_at = f"{verdict.classes} classes, {verdict.shots:g} clean images per class"
    measured = {
        "backdoor p-value": verdict.p_value,
        "backdoor probability, where one model in two has one": verdict.probability,
        "backdoor score (log likelihood ratio, nats)": verdict.score,
    }
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": kind, "value": repr(value), "slice": looked_at} for kind, value in measured.items()
            ]
        },
        "considerations": {"technicalLimitations": [*report.limits, *report.warnings]},
    }
