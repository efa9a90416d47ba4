"""What a model card on the Hugging Face Hub says first, and a short card for a classifier that has no other."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clip_antidote.errors import UsageError

CAVEAT = (
    "The purified classifier protects its closed class list only. The image encoder itself stays backdoored: "
    "retrieval, linear probes and new class names are not protected."
)
"""What every artefact and report says, unless the report brings its own wording."""

FOLDER = "path/to/this/folder"
"""Where the card says the classifier lies, until it is uploaded."""

LIBRARY = "clip-antidote"
PIPELINE = "zero-shot-image-classification"
TAGS = ("clip", "image-classification", "backdoor-defense", "prompt-tuning", "clip-antidote")
SINGLE_FORM = (
    "`classifier.safetensors` and `classifier.pt` (for `--load_clfs` of CLIP_benchmark; never uploaded) hold one "
    "weight per class `[D, C]`, as the paper has it. **This form has no gate and no second look**: images of the "
    "suspected target are mostly not recognized, and the rates of the whole classifier are not those of this form."
)
"""About the files that hold one matrix for other tools."""

_LICENSES = {"tiny": "apache-2.0", "demo:badnet": "apache-2.0"}
_HUB = re.compile(r"hf(?:-hub)?:([\w.-]+/[\w.-]+)(?:@.*)?")


def public_spec(spec: str) -> str:
    """A model spec with file paths shortened to the file name, so that what is shared shows no folders."""
    text = spec or "unknown"
    separator = "@" if "@" in text else ":"
    if text.startswith(("hf-hub:", "hf:")) or (separator == ":" and text.startswith("open_clip:")):
        return text
    head, found, path = text.partition(separator)
    name = re.split(r"[/\\]", (path if found else text).rstrip("/\\"))[-1]
    return head + separator + name if found else name


def plain_markdown(value: Any) -> str:
    """Makes untrusted text plain in Markdown: one line, no HTML, no markup."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", html.escape(line, quote=False))


def with_license(card: str, license_name: str) -> str:
    """The card with a license in its header, as the Hub calls it ("apache-2.0").

    Raises:
        UsageError: No license is called so.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,60}", license_name):
        raise UsageError(f"'{license_name:.80}' is no license of the Hugging Face Hub; write one like apache-2.0")
    line, header = f"license: {license_name}\n", re.match(r"---\n(.*?\n)?---\n", card, re.DOTALL)
    if header is None:
        return f"---\n{line}---\n\n{card}"
    fields = re.sub(r"(?m)^license:.*\n", "", header[1] or "")
    return f"---\n{line}{fields}---\n{card[header.end() :]}"


def hub_header(spec: str, *, results: Sequence[Mapping[str, Any]] = ()) -> str:
    """The YAML header that the Hub reads. The license is that of the suspect model, mostly not known here.

    Args:
        spec: The suspect model. It is the `base_model` where the Hub has it; other specs mean nothing there.
        results: Entries of the model index, see `measured_result`.
    """
    hub = _HUB.fullmatch(spec)
    fields: dict[str, Any] = {"license": _LICENSES.get(spec, "unknown")}
    if hub:
        fields["base_model"] = hub[1]
    fields |= {"library_name": LIBRARY, "pipeline_tag": PIPELINE, "tags": list(TAGS)}
    if results:
        fields["model-index"] = [{"name": "purified CLIP classifier", "results": [dict(entry) for entry in results]}]
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---\n"


def measured_result(dataset: str, described: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An entry of the model index: what was measured on one data set, by ourselves.

    Args:
        dataset: Name of the data set.
        described: What of it, in words.
        metrics: With `type`, `name` and `value`, a fraction.
    """
    return {
        "task": {"type": PIPELINE},
        "dataset": {"type": "images", "name": f"{dataset} ({described})"},
        "metrics": [dict(metric) for metric in metrics],
    }


def short_card(spec: str, sha256: str, classes: Sequence[str]) -> str:
    """A model card without measurements, for a classifier that did not come with one."""
    names = ", ".join(plain_markdown(name) for name in classes[:60])
    more = f", and {len(classes) - 60} more (see config.json)" if len(classes) > 60 else ""
    return f"""\
{hub_header(spec)}
# Purified CLIP classifier

> **Limits.** {CAVEAT}

## How to load

```python
import clip_antidote as ca

model = ca.PurifiedCLIP.from_pretrained("{FOLDER}", model="SPEC of the base model below")
probabilities = model.predict_proba(images)  # images: [N, 3, H, W] in [0, 1]
```

## Base model

- {plain_markdown(public_spec(spec))}, which is not part of this repository
- SHA-256 of its checkpoint: `{plain_markdown(sha256 or "not known")}`

## Other tools

{SINGLE_FORM}

## Classes ({len(classes)})

{names}{more}

Nothing was measured for this card.
"""
