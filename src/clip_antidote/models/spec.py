"""Model specs: one string that says which architecture and whose weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from clip_antidote.errors import UsageError

CONFIG_NAME = "open_clip_config.json"
SPEC_FORMS = {
    "open_clip:ARCH@PATH": "a checkpoint file (safetensors, or weights-only PyTorch) of an open_clip architecture",
    "open_clip:ARCH@TAG": "published weights by their open_clip tag (downloads)",
    "hf-hub:org/repo": "a model on the Hugging Face hub, of open_clip or else of transformers (downloads)",
    "local-dir:PATH": "a folder with weights and open_clip_config.json, or config.json of transformers",
    "hf:PATH": "a folder of transformers: config.json, model.safetensors and tokenizer (CLIP, SigLIP, SigLIP2)",
    "tiny": "the embedded small CLIP",
    "demo:badnet": "the embedded small CLIP with a BadNet backdoor to 'hat', poisoned on purpose to try things on",
}
"""The forms of a model spec, each with a line about it."""

FORMS = ", ".join(SPEC_FORMS)

DEMOS = tuple(form.removeprefix("demo:") for form in SPEC_FORMS if form.startswith("demo:"))
"""Names of the embedded models that are poisoned on purpose."""


@dataclass(frozen=True)
class ModelSpec:
    """A parsed model spec.

    Attributes:
        kind: "open_clip", "hf-hub", "local-dir", "hf", "tiny" or "demo".
        arch: open_clip's architecture name, empty where a configuration file says it.
        source: Checkpoint path or pretrained tag, repository, folder, or name of a demo; empty for "tiny".
    """

    kind: str
    arch: str = ""
    source: str = ""

    def __str__(self) -> str:
        if self.kind == "open_clip":
            return f"open_clip:{self.arch}@{self.source}"
        return f"{self.kind}:{self.source}" if self.source else self.kind


def parse_spec(text: str) -> ModelSpec:
    """Reads a model spec; opens no checkpoint and no connection.

    Args:
        text: `open_clip:ARCH@PATH`, `open_clip:ARCH@TAG`, `hf-hub:org/repo`, `local-dir:PATH`, `hf:PATH`,
            `tiny`, `demo:badnet`, or the path of a folder with an open_clip_config.json or a config.json.

    Raises:
        UsageError: The form or the architecture is unknown, or a part is missing.
    """
    if text == "tiny":
        return ModelSpec("tiny")
    kind, colon, rest = text.partition(":")
    if colon and kind == "open_clip":
        return _open_clip_spec(rest)
    if colon and kind in ("local-dir", "hf"):
        if not rest:
            raise UsageError(f"{kind}: names no folder; write {kind}:PATH")
        return ModelSpec(kind, source=rest)
    if colon and kind == "hf-hub":
        owner, _, name = rest.partition("/")
        if not owner or not name or "/" in name:
            raise UsageError(f"'{text}' does not name a repository; write hf-hub:org/repo")
        return ModelSpec("hf-hub", source=rest)
    if colon and kind == "demo":
        if rest not in DEMOS:
            raise UsageError(f"there is no poisoned demo model '{rest}'; known are {', '.join(DEMOS)}")
        return ModelSpec("demo", source=rest)
    return _plain_spec(text)


def downloads(text: str) -> bool:
    """Whether loading this model would fetch weights from elsewhere; itself it opens no connection.

    Raises:
        UsageError: As `parse_spec`.
    """
    if text.partition(":")[0] == "hf-hub":
        return True
    import open_clip

    spec = parse_spec(text)
    return spec.kind == "open_clip" and bool(open_clip.get_pretrained_cfg(spec.arch, spec.source))


def _open_clip_spec(rest: str) -> ModelSpec:
    import open_clip  # `ls` names the forms without it

    arch, _, source = rest.partition("@")
    arch = arch.replace("/", "-")  # OpenAI writes ViT-B/32
    known = open_clip.list_models()
    if arch not in known:
        same = [name for name in known if name.lower() == arch.lower()]
        close = same or difflib.get_close_matches(arch, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}" if close else "see open_clip.list_models()"
        raise UsageError(f"open_clip has no architecture '{arch}'; {hint}")
    if not source:
        tags = open_clip.list_pretrained_tags_by_model(arch)
        choices = f" or one of its tags ({', '.join(tags)})" if tags else ""
        raise UsageError(f"'open_clip:{rest}' names no weights; write open_clip:{arch}@PATH{choices}")
    return ModelSpec("open_clip", arch, source)


def _plain_spec(text: str) -> ModelSpec:
    """Reads what has no known prefix: a folder, or a mistake that can be named."""
    import open_clip

    path = Path(text)
    if text and path.is_dir():
        if (path / CONFIG_NAME).is_file() or (path / "config.json").is_file():
            return ModelSpec("local-dir", source=text)
        raise UsageError(
            f"the folder {text} has no {CONFIG_NAME} and no config.json; name a checkpoint in it as "
            "open_clip:ARCH@PATH, with the architecture it was trained with"
        )
    if text and path.is_file():
        raise UsageError(
            f"a checkpoint alone does not say its architecture; write open_clip:ARCH@{text} "
            f"(clip-antidote inspect {text} tells which)"
        )
    if text.partition("@")[0].replace("/", "-") in open_clip.list_models():
        weights = "" if "@" in text else "@PATH"
        raise UsageError(f"'{text}' lacks the library's name; write open_clip:{text}{weights}")
    raise UsageError(f"cannot read the model '{text}'; the forms are {FORMS}")
