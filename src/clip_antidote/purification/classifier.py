"""`PurifiedCLIP`, the artefact: a frozen model and the classifier its tuned prompts give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from clip_antidote.errors import DataError, ModelError
from clip_antidote.files import write_json
from clip_antidote.models import load_model
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.other_views import Look
from clip_antidote.outputs import result_folder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.gate import Gate, GuardedHead
from clip_antidote.purification.second_look import second_opinion
from clip_antidote.triggers import Trigger, load_trigger

FORMAT = 2

KIND = "purified classifier"
"""What the marker of an artefact folder says."""


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
        guard: Clean class weights with gates in front of the suspected targets; without it, the classifier
            answers with its one weight per class.
        second_look: Whether images that a gate stops are looked at again, by other views of them.
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
        guard: GuardedHead | None = None,
        second_look: bool = True,
    ) -> None:
        super().__init__(model, classifier, classes)
        self.second_look = second_look
        self.record = record or {}
        self.triggers = triggers or {}
        self.register_buffer("context", context)
        for name, value in _guard_tensors(guard).items():
            self.register_buffer(f"guard_{name}", value.to(classifier))
        self._gates = () if guard is None else tuple((g.target, g.threshold, len(g.offsets)) for g in guard.gates)
        self.context: torch.Tensor

    @property
    def target_suspected(self) -> str | None:
        """Name of the suspected target class, None where nothing was found."""
        return self.record.get("target_suspected")

    @property
    def guard(self) -> GuardedHead | None:
        """Clean class weights and gates, None where the classifier has one weight per class."""
        if not self._gates:
            return None
        directions, offsets = self.get_buffer("guard_directions"), self.get_buffer("guard_offsets")
        gates, end = [], 0
        for target, threshold, count in self._gates:
            start, end = end, end + count
            gates.append(Gate(directions[:, start:end], offsets[start:end], threshold, target))
        return GuardedHead(self.get_buffer("guard_clean"), tuple(gates))

    def single(self) -> ZeroShotClassifier:
        """Returns the same classifier without the gates: one weight per class, as in the paper."""
        return ZeroShotClassifier(self.model, self.classifier, self.classes)

    def with_threshold(self, threshold: float) -> PurifiedCLIP:
        """Returns the same classifier with its gates lowered or raised, see `Gate`."""
        guard = self.guard
        if guard is not None:
            guard = replace(guard, gates=tuple(replace(gate, threshold=threshold) for gate in guard.gates))
        return PurifiedCLIP(
            self.model,
            self.classifier,
            self.classes,
            context=self.context,
            record=self.record,
            triggers=self.triggers,
            guard=guard,
            second_look=self.second_look,
        )

    def logits(self, features: torch.Tensor, look: Look | None = None) -> torch.Tensor:
        """Logits [N, C] of unit image features [N, D].

        With gates, features that look triggered are answered by other views of their images (see
        `second_opinion`), or by the tuned prompts where there is no second look; the target they
        were called comes below all other classes. The rest get the logits of the clean prompts.

        Args:
            features: Unit features.
            look: Gives other views of the images at rows of `features`; `forward` has it.
        """
        tuned = super().logits(features)
        guard = self.guard
        if guard is None:
            return tuned
        clean, called, triggered = guard.decide(features.to(self.classifier))
        tuned = tuned.scatter(1, called[:, None], tuned.amin(dim=1, keepdim=True) - 1)
        if look is not None and self.second_look and (torch.compiler.is_exporting() or bool(triggered.any())):
            stopped = triggered.nonzero().flatten()
            views = look(stopped).to(self.classifier)
            opinion = second_opinion(views, self.classifier, called[stopped], self.model.logit_scale)
            tuned = tuned.index_copy(0, stopped, opinion.to(tuned))
        clean = self.model.logit_scale * clean
        bias = self.model.logit_bias
        return torch.where(triggered[:, None], tuned, clean if bias is None else clean + bias)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the artefact folder, whole or not at all.

        `config.json`, `prompts.safetensors`, `classifier.safetensors`, `classifier.pt` (the [D, C] tensor
        for CLIP_benchmark: one weight per class, without the gates), `guard.safetensors` and `triggers/`.
        The suspect model itself is not copied, but named with its hash.

        Raises:
            DataError: The folder cannot be written, or holds something else than an earlier artefact.
        """
        with result_folder(Path(folder), KIND) as temporary:
            self.write_files(temporary)

    def write_files(self, folder: Path) -> None:
        """Writes the artefact's files into an existing folder."""
        guard = self.guard
        if guard is not None:
            parts = {name: value.detach().cpu().contiguous() for name, value in _guard_tensors(guard).items()}
            save_file(parts, folder / "guard.safetensors")
        config = {
            "format": FORMAT,
            "base_model": {"spec": self.model.spec, "sha256": self.model.sha256},
            "classes": list(self.classes),
            "gates": [
                {"target": self.classes[target], "threshold": threshold, "families": count}
                for target, threshold, count in self._gates
            ],
            "second_look": self.second_look,
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
            made, second_look = config.pop("format", None), bool(config.pop("second_look", False))
            guard = _load_guard(root, config.pop("gates", []), classes)
            found = sorted((root / "triggers").glob("*/trigger.json"))  # pictures lie beside the folders
            triggers = {path.parent.name: load_trigger(path) for path in found}
        except Exception as error:  # a broken folder may fail in many ways; all mean the same to the user
            raise DataError(f"{root} is not a purified classifier: {error}") from error
        if made != FORMAT:
            raise DataError(
                f"{root} has the format {made}, this version reads format {FORMAT}; purify the model again"
            )
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
        return cls(
            model,
            classifier,
            classes,
            context=context,
            record=config,
            triggers=triggers,
            guard=guard,
            second_look=second_look,
        ).to(device)


def _moved(spec: str, root: Path) -> str:
    """Follows a local folder that was moved together with the artefact."""
    kind, _, path = spec.partition(":")
    if kind == "local-dir" and not Path(path).exists():
        beside = root.parent / Path(path).name
        if beside.exists():
            return f"local-dir:{beside}"
    return spec


def _guard_tensors(guard: GuardedHead | None) -> dict[str, torch.Tensor]:
    """What of a guard are tensors; the gates' directions side by side."""
    if guard is None:
        return {}
    return {
        "clean": guard.clean,
        "directions": torch.cat([gate.directions for gate in guard.gates], dim=1),
        "offsets": torch.cat([gate.offsets for gate in guard.gates]),
    }


def _load_guard(root: Path, rows: list[dict[str, Any]], classes: tuple[str, ...]) -> GuardedHead | None:
    """Reads the gates of an artefact folder, whose `config.json` describes them by `rows`."""
    if not rows:
        return None
    parts = load_file(root / "guard.safetensors")
    counts = [int(row["families"]) for row in rows]
    directions, offsets = parts["directions"].split(counts, dim=1), parts["offsets"].split(counts)
    gates = tuple(
        Gate(direction, offset, float(row["threshold"]), classes.index(row["target"]))
        for row, direction, offset in zip(rows, directions, offsets, strict=True)
    )
    return GuardedHead(parts["clean"], gates)
