"""`PurifiedCLIP`: a frozen model and the classifier its tuned prompts give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

import torch

from clip_antidote.detection.search import SearchResult
from clip_antidote.errors import ModelError, UsageError
from clip_antidote.inversion.views import Observation
from clip_antidote.models import load_model
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layers import LayersAt
from clip_antidote.models.other_views import Look
from clip_antidote.prompts.classifier import Answer, ZeroShotClassifier
from clip_antidote.purification.artefact import Artefact, BaseModelRef, read_artefact
from clip_antidote.purification.base_model import base_spec, check_base
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.hub import local_folder
from clip_antidote.purification.record import PurificationRecord, trigger_names
from clip_antidote.purification.second_look import second_opinion
from clip_antidote.purification.shareable import Shareable
from clip_antidote.purification.tuner import TunedPrompts
from clip_antidote.triggers.base import Trigger


class PurifiedCLIP(Shareable, ZeroShotClassifier):
    """A zero-shot classifier over a closed class list.

    It protects these classes only: the image encoder itself stays as it was, for retrieval, probes
    and new class names too.

    Args:
        model: The suspect model.
        classifier: Class weights [D, C], unit columns, in the order of `classes`.
        classes: Class names.
        context: Tuned contexts [C, M, Dt].
        record: What is known about how it was made.
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
        record: PurificationRecord | None = None,
        triggers: dict[str, Trigger] | None = None,
        guard: GuardedHead | None = None,
        second_look: bool = True,
    ) -> None:
        super().__init__(model, classifier, classes)
        self.second_look = second_look
        self.triggers = triggers or {}
        self.register_buffer("context", context)
        self.context: torch.Tensor
        self.guard = guard.to(classifier) if guard is not None else None
        self._record = record

    @classmethod
    def assemble(
        cls,
        seen: Observation,
        found: SearchResult,
        tuned: TunedPrompts,
        guard: GuardedHead | None,
        record: PurificationRecord,
    ) -> Self:
        """Puts together what the stages of `purify` gave."""
        triggers = (dummy.trigger for dummy in found.dummies)
        return cls(
            seen.model,
            tuned.weights.T.contiguous(),
            seen.classes,
            context=tuned.contexts,
            record=record,
            triggers=dict(zip(trigger_names(found.dummies), triggers, strict=True)),
            guard=guard,
            second_look=record.settings.gate.second_look,
        )

    @property
    def record(self) -> PurificationRecord | None:
        """How it was made; threshold and second look as they are now, for there is but one of either."""
        if self._record is None or self.guard is None:
            return self._record
        return self._record.with_head(threshold=self.guard.threshold, second_look=self.second_look)

    @property
    def targets_suspected(self) -> tuple[str, ...]:
        """Names of the suspected targets, the most suspicious first."""
        return () if self._record is None else self._record.targets_suspected

    @property
    def target_suspected(self) -> str | None:
        """Name of the most suspicious target class, None where nothing was found."""
        return None if self._record is None else self._record.target_suspected

    @property
    def guarded(self) -> tuple[str, ...]:
        """Names of the classes with a gate in front of them: the suspected targets, and others that come near."""
        return () if self.guard is None else tuple(self.classes[gate.target] for gate in self.guard.gates)

    def single(self) -> ZeroShotClassifier:
        """Returns the same classifier without the gates: one weight per class, as in the paper."""
        return ZeroShotClassifier(self.model, self.classifier, self.classes)

    def with_threshold(self, threshold: float) -> PurifiedCLIP:
        """Returns the same classifier with its gates lowered or raised, see `GuardedHead`.

        Raises:
            UsageError: The threshold is no number, which would let everything pass.
        """
        if not math.isfinite(threshold):
            raise UsageError(f"the threshold of the gates must be a finite number, not {threshold}")
        return PurifiedCLIP(
            self.model,
            self.classifier,
            self.classes,
            context=self.context,
            record=self._record,
            triggers=self.triggers,
            guard=None if self.guard is None else self.guard.at(threshold),
            second_look=self.second_look,
        )

    @property
    def reads_layers(self) -> bool:
        """Whether a gate reads inner layers."""
        return self.guard is not None and self.guard.inner is not None

    def answer(self, features: torch.Tensor, look: Look | None = None, layers: LayersAt | None = None) -> Answer:
        """Answers unit image features [N, D], and says which of them a gate stopped.

        With gates, features that look triggered are answered by other views of their images (see
        `second_opinion`), or by the tuned prompts where there is no second look; the target they
        were called comes below all other classes. The rest get the logits of the clean prompts, and so do
        those that lie near the threshold where the other views consent (see `GuardedHead.consented`).

        Args:
            features: Unit features.
            layers: Gives what inner layers say of the images at rows of `features`; `forward` has it. Without it the
                gates read the final feature alone.
            look: Gives other views of the images at rows of `features`; `forward` has it.
        """
        tuned = super().answer(features)
        if self.guard is None:
            return tuned
        scale = self.model.logit_scale.detach()
        decision = self.guard.decide(features.to(self.classifier), layers)
        clean, called, triggered, _ = decision
        logits = tuned.logits.scatter(1, called[:, None], tuned.logits.amin(dim=1, keepdim=True) - 1)
        if look is not None and self.second_look and (torch.compiler.is_exporting() or bool(triggered.any())):
            stopped = triggered.nonzero().flatten()
            views = look(stopped).to(self.classifier)
            opinion = second_opinion(views, self.classifier, called[stopped], scale)
            logits = logits.index_copy(0, stopped, opinion.to(logits))
            triggered = triggered.index_copy(0, stopped, ~self.guard.consented(decision, stopped, views, scale))
        return Answer(torch.where(triggered[:, None], logits, self.biased(scale * clean)), triggered)

    def artefact(self) -> Artefact:
        """Returns everything but the model, as it is kept in files."""
        return Artefact(
            base_model=BaseModelRef(spec=self.model.spec, sha256=self.model.sha256),
            classes=self.classes,
            classifier=self.classifier,
            context=self.context,
            guard=self.guard,
            second_look=self.second_look,
            record=self.record,
            triggers=self.triggers,
            card=self.card,
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        model: DualEncoder | str | None = None,
        allow_download: bool = False,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Loads an artefact folder and the model it belongs to.

        Args:
            folder: What `save_pretrained` wrote; or `hf-hub:org/name`, which `push_to_hub` uploaded and which is
                fetched; or `org/name`, which is fetched where there is no such folder and downloads are allowed.
            model: The suspect model or its spec, where it is loaded already or has moved.
            allow_download: Whether a model that the artefact names may be fetched from the network too.
            device: Where the result goes.

        Raises:
            DataError: The folder is not an artefact, or cannot be fetched.
            UsageError: It, or the model it names, would have to be downloaded.
            ModelError: The model is not the one that was purified.
        """
        root = local_folder(folder, allow_download=allow_download)
        kept = read_artefact(root)
        base = kept.base_model
        if model is None:
            model = base_spec(base, root, allow_download=allow_download)
        if isinstance(model, str):
            model = load_model(model)
        check_base(base, model.sha256, root)
        width = getattr(model, "model_cfg", {}).get("embed_dim")
        if width is not None and width != len(kept.classifier):
            raise ModelError(f"{root} classifies features of {len(kept.classifier)} numbers, its model gives {width}")
        loaded = cls(
            model,
            kept.classifier,
            kept.classes,
            context=kept.context,
            record=kept.record,
            triggers=dict(kept.triggers),
            guard=kept.guard,
            second_look=kept.second_look,
        )
        loaded.keep_card(kept.card)
        return loaded.to(device)
