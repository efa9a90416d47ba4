"""The model card (README.md) of a purified classifier, in the form the Hugging Face Hub reads."""

from __future__ import annotations

import re
from typing import Any

from clip_antidote.evaluation.metric_table import METRICS
from clip_antidote.purification.hub_card import FOLDER, SINGLE_FORM, hub_header, measured_result
from clip_antidote.purification.hub_card import plain_markdown as _text
from clip_antidote.reporting.html import how_it_answers, measured_rows, points
from clip_antidote.reporting.report import Report

_MOST_CLASSES = 60
_TYPES = {"ca": "accuracy"}  # as the Hub calls it

_LOADING = """\
```python
import clip_antidote as ca

model = ca.PurifiedCLIP.from_pretrained("FOLDER")
logits = model(images)  # images: [N, 3, H, W] in [0, 1]; logits: [N, C] in the order of model.classes
names = model.predict(images)
probabilities = model.predict_proba(images)  # softmax of the logits, not calibrated
```""".replace("FOLDER", FOLDER)


def _model_index(report: Report) -> list[dict[str, Any]]:
    """What was measured of the result, for the Hub; nothing where it was measured on the shots themselves."""
    rates = [metric for metric in METRICS if metric.counted and report.after.get(metric.key) is not None]
    if not rates or not report.data or "shots themselves" in report.measured_on:
        return []
    metrics = [{"type": _TYPES.get(m.key, m.key), "name": m.label, "value": report.after[m.key]} for m in rates]
    name = re.split(r"[/\\]", report.data.rstrip("/\\"))[-1]
    return [measured_result(name, report.measured_on, metrics)]


def _results(report: Report) -> str:
    lines = ["| | before | after | change (points) |", "|---|---|---|---|"]
    rows = measured_rows(report)
    for row in rows:
        cells = [row["metric"].cell(rates) for rates in (report.before, report.after)]
        lines.append(f"| {row['metric'].label} | {cells[0]} | {cells[1]} | {points(row['change'])} |")
    notes = []
    if report.measured_on:
        notes.append(f"Measured on {_text(report.measured_on)}; 95 % intervals in brackets.")
    if all(row["metric"].key != "asr" for row in rows):
        notes.append("ASR not measured: no trigger was given.")
    explained = [f"- {row['metric'].label}: {row['metric'].meaning}." for row in rows]
    return "\n".join([*(lines if rows else []), "", *notes, "", *explained])


def _class_list(report: Report) -> str:
    names = ", ".join(_text(name) for name in report.classes[:_MOST_CLASSES])
    more = len(report.classes) - _MOST_CLASSES
    return names + (f", and {more} more (see config.json)" if more > 0 else "")


def _facts(report: Report) -> str:
    made = report.purification
    facts = [f"Base model: {_text(report.model.public_spec)}"]
    if report.model.sha256:
        facts.append(f"SHA-256 of the base model: `{_text(report.model.sha256)}`")
    facts.append(f"Method: {made.method.upper()} (trigger inversion, then class-wise prompt tuning)")
    facts.append(f"Clean images used: {made.shots} per class")
    answers = how_it_answers(report)
    if answers:
        facts.append(_text(answers))
    return "\n".join(f"- {fact}" for fact in facts)


def render_card(report: Report) -> str:
    """Renders the model card.

    Args:
        report: What to say; rates are fractions in [0, 1].

    Returns:
        Markdown with the YAML header that the Hub reads. The license is "unknown" where that of the suspect model is
        not known here, and the base model is named in it where the Hub has it.
    """
    suspected = report.purification.target_suspected
    doubtful = report.purification.verdict is not None and report.purification.verdict.unconfirmed
    verdict = "No backdoor confirmed" if doubtful else "No backdoor found"
    if suspected is not None:
        verdict = f"Suspected target: **{_text(suspected)}**"
    parts = [
        hub_header(report.model.public_spec, results=_model_index(report)),
        "# Purified CLIP classifier\n",
        f"{verdict}. Made with {_text(f'{report.tool} {report.version}')}; details in report.html.\n",
        f"> **Limits.** {_text(report.caveat)}\n",
        "## Results\n",
        _results(report) + "\n",
        "## How to load\n",
        _LOADING + "\n",
        "## Base model and method\n",
        _facts(report) + "\n",
        "## Other tools\n",
        SINGLE_FORM + "\n",
        f"## Classes ({len(report.classes)})\n",
        _class_list(report) + "\n",
    ]
    if report.warnings:
        parts += ["## Warnings\n", "\n".join(f"- {_text(warning)}" for warning in report.warnings) + "\n"]
    return "\n".join(parts)
