"""The model card (README.md) of a purified classifier, in the form the Hugging Face Hub reads."""

from __future__ import annotations

import html
import re
from typing import Any

import yaml

from clip_antidote.reporting.html import how_it_answers, measured_rows, points
from clip_antidote.reporting.report import Report

_MOST_CLASSES = 60
_TAGS = ["clip", "image-classification", "backdoor-defense", "prompt-tuning", "clip-antidote"]

_LOADING = """\
```python
import clip_antidote as ca

model = ca.PurifiedCLIP.from_pretrained("path/to/this/folder")
logits = model(images)  # images: [N, 3, H, W] in [0, 1]; logits: [N, C] in the order of model.classes
names = [model.classes[i] for i in logits.argmax(dim=1)]
```"""


def _text(value: Any) -> str:
    """Makes untrusted text plain in Markdown: one line, no HTML, no markup."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", html.escape(line, quote=False))


def _front_matter(report: Report) -> str:
    spec = report.model.public_spec
    hub = re.fullmatch(r"hf(?:-hub)?:([^@]+)(?:@.*)?", spec)
    fields = {"base_model": hub[1] if hub else spec, "library_name": "clip-antidote", "tags": _TAGS}
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---\n"


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
        Markdown with a YAML front matter. There is no license field: the license of the suspect model
        is not known here.
    """
    suspected = report.purification.target_suspected
    verdict = f"Suspected target: **{_text(suspected)}**" if suspected is not None else "No backdoor found"
    parts = [
        _front_matter(report),
        "# Purified CLIP classifier\n",
        f"{verdict}. Made with {_text(f'{report.tool} {report.version}')}; details in report.html.\n",
        f"> **Limits.** {_text(report.caveat)}\n",
        "## Results\n",
        _results(report) + "\n",
        "## How to load\n",
        _LOADING + "\n",
        "## Base model and method\n",
        _facts(report) + "\n",
        f"## Classes ({len(report.classes)})\n",
        _class_list(report) + "\n",
    ]
    if report.warnings:
        parts += ["## Warnings\n", "\n".join(f"- {_text(warning)}" for warning in report.warnings) + "\n"]
    return "\n".join(parts)
