"""`PurifiedCLIP`, the artefact: a frozen model and the classifier its tuned prompts give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from clip_antidote.errors import DataError, ModelError
from clip_antidote.files import atomic_path, write_json
from clip_antidote.models import load_model
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.decoy import DecoyHead
from clip_antidote.triggers.base import Trigger

FORMAT = 1


class PurifiedCLIP(ZeroShotClassifier):
    """A zero-shot classifier over a closed class list.

    It protects these classes only: the image encoder itself stays as it was, for retrieval, probes
    and new class names too.

    Args:
        model: The suspect model, frozen.
        classifier: Class weights [D, C], unit columns, in the order of `classes`.
        classes: Class names.
        context: Tuned contexts [C, M, Dt].
        record: What is known about how it was made (settings, scores, seconds, ...), for `config.json`.
        triggers: Dummy triggers found in stage 1, by name.
        decoy: The decoy head; without it, the classifier answers with its one weight per class.
    """

    def __init__(
        self,
        model: DualEncoder,
        classifier: torch.Tensor,
        classes: tuple[str, ...],
        *,
        context: torch.Tensor,
        record: dict[str, Any] | None = None,
        triggers: dict[str, Trigger] | None = None,
        decoy: DecoyHead | None = None,
    ) -> None:
        super().__init__(model, classifier, classes)
        self.record = record or {}
        self.triggers = triggers or {}
        self.register_buffer("context", context)
        self.register_buffer("decoy_weights", decoy.weights if decoy is not None else None)
        self.decoy_weights: torch.Tensor | None
        self._decoy = (decoy.bias, decoy.target) if decoy is not None else None
        self.context: torch.Tensor

    @property
    def target_suspected(self) -> str | None:
        """Name of the suspected target class, None where nothing was found."""
        return self.record.get("target_suspected")

    @property
    def decoy(self) -> DecoyHead | None:
        """The decoy head, None where the classifier has one weight per class."""
        if self.decoy_weights is None or self._decoy is None:
            return None
        return DecoyHead(self.decoy_weights, *self._decoy)

    def single(self) -> ZeroShotClassifier:
        """Returns the same classifier without the decoy: one weight per class, as in the paper."""
        return ZeroShotClassifier(self.model, self.classifier, self.classes)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [N, C] of unit image features [N, D].

        With a decoy, features that look triggered get the logits of the tuned prompts, the target's
        below all others; the rest get those of the clean prompts.
        """
        tuned = super().logits(features)
        head = self.decoy
        if head is None:
            return tuned
        clean, triggered = head.gate(features.to(self.classifier), self.model.logit_scale)
        tuned[:, head.target] = tuned.amin(dim=1) - 1
        bias = self.model.logit_bias
        return torch.where(triggered[:, None], tuned, clean if bias is None else clean + bias)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the artefact folder, whole or not at all.

        `config.json`, `prompts.safetensors`, `classifier.safetensors`, `classifier.pt` (the [D, C] tensor
        for CLIP_benchmark: one weight per class, without the decoy), `decoy.safetensors` and `triggers/`.
        The suspect model itself is not copied, but named with its hash.

        Raises:
            DataError: The folder cannot be written.
        """
        with atomic_path(Path(folder)) as temporary:
            temporary.mkdir()
            self.write_files(temporary)

    def write_files(self, folder: Path) -> None:
        """Writes the artefact's files into an existing folder."""
        head = self.decoy
        gate = None
        if head is not None:
            gate = {"bias": head.bias, "target": self.classes[head.target]}
            save_file({"weights": head.weights.detach().cpu().contiguous()}, folder / "decoy.safetensors")
        config = {
            "format": FORMAT,
            "base_model": {"spec": self.model.spec, "sha256": self.model.sha256},
            "classes": list(self.classes),
            "decoy": gate,
            **self.record,
        }
        write_json(folder / "config.json", config)
        classifier = self.classifier.detach().cpu().contiguous()
        save_file({"context": self.context.detach().cpu().contiguous()}, folder / "prompts.safetensors")
        save_file({"classifier": classifier}, folder / "classifier.safetensors")
        torch.save(classifier, folder / "classifier.pt")
        for name, trigger in self.triggers.items():
            trigger.save(folder / "triggers" / name)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, model: DualEncoder | None = None, device: str | torch.device = "cpu"
    ) -> Self:
        """Loads an artefact folder and the model it belongs to.

        Args:
            folder: What `save_pretrained` wrote.
            model: The suspect model, where it is loaded already or has moved.
            device: Where the result goes.

        Raises:
            DataError: The folder is not an artefact.
            ModelError: The model is not the one that was purified.
        """
        root = Path(folder)
        try:
            config = json.loads((root / "config.json").read_text(encoding="utf-8"))
            base, classes = config.pop("base_model"), tuple(config.pop("classes"))
            classifier = load_file(root / "classifier.safetensors")["classifier"]
            context = load_file(root / "prompts.safetensors")["context"]
            gate, decoy = config.pop("decoy", None), None
            if gate is not None:
                weights = load_file(root / "decoy.safetensors")["weights"]
                decoy = DecoyHead(weights, float(gate["bias"]), classes.index(gate["target"]))
        except Exception as error:  # a broken folder may fail in many ways; all mean the same to the user
            raise DataError(f"{root} is not a purified classifier: {error}") from error
        if classifier.ndim != 2 or classifier.shape[1] != len(classes):
            raise DataError(
                f"{root}: the classifier {tuple(classifier.shape)} does not fit its {len(classes)} classes"
            )
        if model is None:
            model = load_model(_moved(str(base["spec"]), root))
        if base["sha256"] and model.sha256 != base["sha256"]:
            raise ModelError(
                f"{root} was made for another checkpoint (sha256 {base['sha256'][:12]}…, this one has "
                f"{model.sha256[:12]}…); give the model it was purified from"
            )
        config.pop("format", None)
        return cls(model, classifier, classes, context=context, record=config, decoy=decoy).to(device)


def _moved(spec: str, root: Path) -> str:
    """Follows a local folder that was moved together with the artefact."""
    kind, _, path = spec.partition(":")
    if kind == "local-dir" and not Path(path).exists():
        beside = root.parent / Path(path).name
        if beside.exists():
            return f"local-dir:{beside}"
    return spec
