"""The job behind `clip-antidote serve`: an image and a purified classifier in, what was answered and why out."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from clip_antidote.data.images import resize_image
from clip_antidote.data.sources import decode_image
from clip_antidote.errors import UsageError
from clip_antidote.jobs.explanation import ClassScore, Explanation, GateReading, ViewVote
from clip_antidote.models.attribution import HeatMap, against_the_others, heat_map
from clip_antidote.models.other_views import encode_views, other_views, view_names
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.guarded_head import Decision
from clip_antidote.purification.second_look import view_consent, view_votes
from clip_antidote.triggers import Trigger, load_trigger


class Explainer:
    """Explains the answers of one purified classifier; safe to call from several threads.

    Args:
        purified: The classifier.
        triggers: Triggers that can be put into images, by name; see `gather_triggers`.
    """

    def __init__(self, purified: PurifiedCLIP, triggers: Mapping[str, Trigger] | None = None) -> None:
        self.purified = purified
        self.triggers = dict(triggers or {})
        self.hand = ZeroShotClassifier.from_templates(purified.model, purified.classes)
        self._one_at_a_time = threading.Lock()  # to freeze a model is no matter of one thread

    def read(self, data: bytes, name: str, *, max_pixels: int | None = None) -> torch.Tensor:
        """Decodes an image file as it is for evaluation, to uint8 [3, S, S].

        Raises:
            DataError: It is no readable image, or too large.
        """
        model = self.purified.model
        return resize_image(decode_image(data, name, max_pixels=max_pixels), model.image_size, mode=model.resize_mode)

    def explain(self, image: torch.Tensor, trigger: str | None = None, strength: float = 1.0) -> Explanation:
        """Answers an image and says why.

        Args:
            image: uint8 [3, S, S], see `read`.
            trigger: Name of a trigger to put into it before.
            strength: How much of it in [0, 1]: pixels go in a straight line from without to with it.

        Raises:
            UsageError: There is no such trigger, or the strength is out of range.
        """
        if trigger is not None and trigger not in self.triggers:
            raise UsageError(f"there is no trigger '{trigger}' here; known: {', '.join(self.triggers) or 'none'}")
        if not 0 <= strength <= 1:
            raise UsageError(f"the strength of a trigger is from 0 to 1, not {strength}")
        plain = image[None].float() / 255
        if trigger is not None:
            plain = torch.lerp(plain, self.triggers[trigger](plain), strength)
        with self._one_at_a_time:
            return self._explain(plain.to(self.purified.model.device))

    def _explain(self, images: torch.Tensor) -> Explanation:
        purified, model = self.purified, self.purified.model
        looked: list[torch.Tensor] = []

        def look(rows: torch.Tensor) -> torch.Tensor:
            looked.append(encode_views(model, images[rows]))
            return looked[-1]

        with model.frozen(), torch.no_grad():
            encoded = purified.encode(images)
            features = encoded.final
            before = self.hand.answer(features).logits[0]
            answer = purified.answer(features, look, encoded.at)
            after = answer.logits[0]
            seen = features.to(purified.classifier)
            decision = None if purified.guard is None else purified.guard.decide(seen, encoded.at)
            winner = int(after.argmax())
            stopped = bool(answer.triggered)
            votes = self._votes(images, looked, decision.called, winner) if decision is not None and stopped else ()
            reading = None if decision is None else self._reading(decision, looked, stopped=stopped)
        deciding = purified.guard.clean if purified.guard is not None and not stopped else purified.classifier
        image = images[0]
        return Explanation(
            image=image.cpu(),
            before=self._ranked(before),
            after=self._ranked(after),
            called=None if decision is None else purified.classes[int(decision.called)],
            gate=reading,
            votes=votes,
            heat_before=self._heat(image, self.hand.classifier, int(before.argmax())),
            heat_after=self._heat(image, deciding, winner),
        )

    def _heat(self, image: torch.Tensor, weights: torch.Tensor, label: int) -> HeatMap:
        found = heat_map(self.purified.model, image, against_the_others(weights, label))
        return replace(found, heat=found.heat.cpu())

    def _ranked(self, logits: torch.Tensor) -> tuple[ClassScore, ...]:
        probabilities = logits.softmax(dim=0)
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return tuple(ClassScore(self.purified.classes[i], float(probabilities[i])) for i in order)

    def _reading(self, decision: Decision, looked: Sequence[torch.Tensor], *, stopped: bool) -> GateReading | None:
        guard, called, score = self.purified.guard, int(decision.called), float(decision.score)
        if guard is None or not math.isfinite(score):
            return None
        consent = None
        if looked:
            scale = self.purified.model.logit_scale
            consent = float(view_consent(looked[0].to(guard.clean), guard.clean, decision.called, scale))
        return GateReading(self.purified.classes[called], score, guard.threshold, stopped, consent)

    def _votes(
        self, images: torch.Tensor, looked: Sequence[torch.Tensor], called: torch.Tensor, winner: int
    ) -> tuple[ViewVote, ...]:
        if not looked:
            return ()
        weights, scale = self.purified.classifier, self.purified.model.logit_scale
        best = view_votes(looked[0].to(weights), weights, called, scale)[0].max(dim=1)
        pictures = other_views(images)[0].cpu()
        return tuple(
            ViewVote(view, picture, self.purified.classes[label], weight**0.5, label == winner)
            for view, picture, label, weight in zip(
                view_names(), pictures, best.indices.tolist(), best.values.tolist(), strict=True
            )
        )


def gather_triggers(purified: PurifiedCLIP, sources: Sequence[str]) -> dict[str, Trigger]:
    """The triggers that can be shown with a classifier, by name.

    Args:
        purified: Has the dummy triggers that were found for it.
        sources: Folders or files of saved triggers, or names of triggers, which come first.

    Raises:
        DataError: A trigger cannot be read, or not be put into images of this size.
        UsageError: There is no trigger of that name.
    """
    size = purified.model.image_size
    found: dict[str, Trigger] = {}
    for source in sources:
        trigger = load_trigger(source)
        trigger(torch.full((1, 3, size, size), 0.5))  # what cannot be applied is said now
        same = sum(name.split(" ")[0] == trigger.name for name in found)
        found[trigger.name if not same else f"{trigger.name} ({same + 1})"] = trigger
    return found | {f"dummy {name}": trigger for name, trigger in purified.triggers.items()}


def load_explainer(
    artefact: Path,
    triggers: Sequence[str] = (),
    *,
    base: str | None = None,
    allow_download: bool = False,
    device: str = "cpu",
) -> Explainer:
    """Loads a purified classifier and what is needed to explain its answers.

    Args:
        artefact: Folder of a purified classifier.
        triggers: See `gather_triggers`.
        base: Spec of the model it belongs to, instead of the one it names.
        allow_download: Whether the model that it names may be fetched from the network.
        device: Where to compute.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    purified = PurifiedCLIP.from_pretrained(artefact, model=base, allow_download=allow_download, device=device)
    return Explainer(purified, gather_triggers(purified, triggers))
