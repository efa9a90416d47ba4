"""How easily each class is reached by triggers of a given form: patches, stripes, colors; a dummy of one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from clip_antidote.detection.statistics import form_scores
from clip_antidote.errors import ModelError
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.config import InversionConfig, SurveyConfig
from clip_antidote.inversion.families import AdditiveBank, DummyBank
from clip_antidote.inversion.shapes import CORNERS, ColorBank, PatchBank, StripeBank
from clip_antidote.inversion.views import Observation
from clip_antidote.precision import autocast
from clip_antidote.progress import track

FORMS = ("patch", "corners", "faint", "stripes", "color")
"""Names of the forms; each gives the statistics `…_ease` and `…_sent`."""

LEAST = 1e-6
"""Losses count down to this."""

TRIES = 3
"""Of so many forms a dummy is made, until one answers."""


def measure_forms(
    seen: Observation, config: SurveyConfig, rows: torch.Tensor, *, seed: int
) -> dict[str, torch.Tensor]:
    """Optimizes a trigger of every form for every class for a few steps, and measures it; none is kept.

    All start from the same noise and see the same images at the same step, so that differences are the classes'.

    Args:
        seen: The suspect and its views.
        config: Settings of the forms.
        rows: The views [n] to measure on.
        seed: Seed of where the triggers start and of the batches.

    Returns:
        Statistics [C] by name: of each form the mean logarithm of the cross-entropy of triggered images of other
        classes to the class (its mean would be that of the few which a trigger does not reach), and their share that
        is called it.

    Raises:
        ModelError: The model leads to losses that are not finite.
    """
    count, size = len(seen.weights), seen.model.image_size
    chunk = max(1, config.pixels // (config.batch_size * size * size))
    out: dict[str, torch.Tensor] = {}
    for form in FORMS:
        parts = []
        for number, classes in enumerate(torch.arange(count).split(chunk)):
            done = f", {number * chunk + 1} to {number * chunk + len(classes)} of {count}" if chunk < count else ""
            bank, lr = _start(form, config, len(classes), size, seed)
            bank.to(seen.model.device)
            description = f"surveying classes ({form}{done})"
            _optimize(seen, bank, classes, config, lr=lr, seed=seed, description=description)
            parts.append(_measure(seen, bank, classes, rows, config))
        for name, values in zip(("ease", "sent"), zip(*parts, strict=True), strict=True):
            out[f"{form}_{name}"] = torch.cat(values)
    return out


def easiest_forms(values: Mapping[str, torch.Tensor], target: int) -> list[str]:
    """Names of the forms that a survey tried, the one that reaches a class most easily first.

    Args:
        values: Statistics [C] of the survey by name.
        target: Index of the class.
    """
    return [name.removesuffix("_ease") for name in form_scores(values, target)]


def invert_answering(
    seen: Observation, config: InversionConfig, forms: Sequence[str], target: int, rows: torch.Tensor, *, seed: int
) -> Dummy:
    """Makes a dummy of the first form that sends nearly all images to a class, or the one that sends most of them.

    Raises:
        ModelError: The model leads to losses that are not finite.
    """
    return best_of(try_forms(seen, config, forms, target, rows, seed=seed))


def best_of(tried: Sequence[Dummy]) -> Dummy:
    """The dummy that sends most images to its class."""
    return max(tried, key=lambda dummy: dummy.flip_rate or 0.0)


def try_forms(
    seen: Observation, config: InversionConfig, forms: Sequence[str], target: int, rows: torch.Tensor, *, seed: int
) -> list[Dummy]:
    """Makes a dummy of one form after the other, until one sends nearly all images to the class.

    That a class has images of one color makes it easy by color curves without any poison, for some of its images.

    Args:
        seen: The suspect and its views.
        config: Settings.
        forms: Names, the one that reaches the class most easily first; `TRIES` of them are tried.
        target: Index of the class.
        rows: The views [n] to measure on.
        seed: Seed of where triggers start and of the batches.
    """
    tried: list[Dummy] = []
    for form in forms[:TRIES]:
        tried.append(invert_form(seen, config, form, target, rows, seed=seed))
        if tried[-1].answers:
            break
    return tried


def invert_form(
    seen: Observation, config: InversionConfig, form: str, target: int, rows: torch.Tensor, *, seed: int
) -> Dummy:
    """Optimizes a trigger of one form for one class for longer, to be a dummy (docs/method.md).

    Args:
        seen: The suspect and its views.
        config: Settings: how many steps, and those of the survey.
        form: One of `FORMS`.
        target: Index of the class.
        rows: The views [n] to measure on.
        seed: Seed of where the trigger starts and of the batches.

    Raises:
        ModelError: The model leads to losses that are not finite.
    """
    longer = config.survey.model_copy(update={"steps": config.form_steps, "batch_size": config.batch_size})
    bank, lr = _start(form, longer, 1, seen.model.image_size, seed)
    bank.to(seen.model.device)
    label = torch.tensor([target])
    _optimize(seen, bank, label, longer, lr=lr, seed=seed, description=f"inverting triggers ({form})")
    _, sent = _measure(seen, bank, label, rows, longer)
    return Dummy(bank.trigger(0), form, target, float(sent[0]), float(bank.size().detach()[0]))


def _start(form: str, config: SurveyConfig, count: int, size: int, seed: int) -> tuple[DummyBank, float]:
    """Makes equal triggers, one per class; returns them and their learning rate."""
    kinds: dict[str, tuple[Callable[..., DummyBank], float, float]] = {
        "patch": (PatchBank, config.patch_side, config.patch_lr),
        "corners": (partial(PatchBank, places=CORNERS), config.corner_side, config.patch_lr),
        "faint": (AdditiveBank, config.faint_bound, config.faint_lr),
        "stripes": (StripeBank, config.stripe_bound, config.curve_lr),
        "color": (ColorBank, config.color_bound, config.curve_lr),
    }
    make, strength, lr = kinds[form]
    bank = make([strength], size, generator=torch.Generator().manual_seed(seed))
    return bank.select(torch.zeros(count, dtype=torch.long)), lr


def _optimize(
    seen: Observation,
    bank: DummyBank,
    classes: torch.Tensor,
    config: SurveyConfig,
    *,
    lr: float,
    seed: int,
    description: str,
) -> None:
    optimizer = torch.optim.Adam(bank.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    with seen.model.frozen():
        for step in track(range(config.steps), description, total=config.steps):
            rows = torch.randint(len(seen.pool), (config.batch_size,), generator=generator)
            loss, valid, _ = _losses(seen, bank, classes, rows, config)
            total = ((loss * valid).sum(1) / valid.sum(1).clamp_min(1)).sum()
            if seen.model.device.type == "cpu" and not bool(total.isfinite()):
                raise ModelError(f"{description}: the loss is not finite at step {step + 1}; look at the model")
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()


@torch.no_grad()
def _measure(
    seen: Observation, bank: DummyBank, classes: torch.Tensor, rows: torch.Tensor, config: SurveyConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean log loss and the share of images sent, each [H], over images of other classes."""
    sums = torch.zeros(3, len(classes), device=seen.model.device)
    for part in rows.split(config.batch_size):
        loss, valid, sent = _losses(seen, bank, classes, part, config)
        sums += torch.stack([(loss.clamp_min(LEAST).log() * valid).sum(1), (sent & valid).sum(1), valid.sum(1)])
    ease, sent_share = (sums[:2] / sums[2].clamp_min(1)).cpu()
    if not bool(ease.isfinite().all()):
        raise ModelError("measuring triggers: the loss is not finite; look at the model")
    return ease, sent_share


def _losses(
    seen: Observation, bank: DummyBank, classes: torch.Tensor, rows: torch.Tensor, config: SurveyConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns cross-entropies to the classes, which images are of others, and which are called it, each [H, b]."""
    device, weights = seen.model.device, seen.weights.to(seen.model.device)
    classes = classes.to(device)
    images = seen.pool.images[rows].to(device).float() / 255
    count, size = len(classes), len(rows)
    triggered = bank.apply_all(images.expand(count, *images.shape))
    with autocast(device, seen.precision):
        features = seen.model.encode_images(triggered.flatten(0, 1))
    logits = features.float() @ weights.T
    wanted = classes.repeat_interleave(size)
    loss = F.cross_entropy(logits / config.temperature, wanted, reduction="none")
    sent = logits.argmax(1) == wanted
    valid = seen.pool.labels[rows].to(device)[None] != classes[:, None]
    return loss.view(count, size), valid, sent.view(count, size)
