"""The job of `clip-antidote attack --trigger-only`: images in, the same images with a trigger out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.clean_data import CleanData
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.attacks.trigger_making import attack_material
from clip_antidote.data.captions import load_captions
from clip_antidote.data.folders import load_images
from clip_antidote.data.formats import is_embedded
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pictures import find_pictures
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.aims import class_index
from clip_antidote.files import write_json
from clip_antidote.jobs.attack import make_attack
from clip_antidote.jobs.results import write_trigger
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models import load_model
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.outputs import check_output, result_folder
from clip_antidote.progress import track
from clip_antidote.reporting import to_png
from clip_antidote.triggers import Trigger, load_trigger

KIND = "set of triggered images"
DEFAULT_SIZE = 224
BATCH = 64


def make_trigger_maker(
    attack: str | None,
    trigger: str | None,
    file: Path | None = None,
    *,
    steps: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> Trigger | Attack:
    """Loads a saved trigger, or makes the attack that makes one.

    Args:
        attack: Name of the attack.
        trigger: Folder of a saved trigger, or the name of one, instead.
        file: YAML file with settings of the attack.
        steps: See `make_attack`.
        given: See `make_attack`.

    Raises:
        UsageError: Both or neither are given, or a setting is wrong.
        DataError: The trigger cannot be read.
    """
    if (attack is None) == (trigger is None):
        raise UsageError("--trigger-only takes either --trigger with a saved trigger or --attack with a name")
    if trigger is None:
        return make_attack(attack or "", file, steps=steps, given=given)
    if file is not None:
        raise UsageError("--config holds the settings of an attack; with --trigger they come from the trigger")
    return load_trigger(trigger)


def run_trigger_job(
    maker: Trigger | Attack,
    data: str,
    out: Path,
    *,
    spec: str | None = None,
    target: str | None = None,
    captions: str | None = None,
    classes: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Makes a trigger where it is not there yet, and puts it into images.

    Args:
        maker: The trigger, or an attack that makes one.
        data: See `run_trigger_images`; an attack that optimizes its trigger needs labelled images.
        out: Folder to write; see `outputs.check_output` for what may be there.
        spec: Model spec; gives size and way of resizing, and is what a trigger is optimized on.
        target: Target class of an attack that optimizes its trigger.
        captions: Image–caption pairs for such an attack, see `load_captions`.
        classes: Class file for such an attack.
        image_size: Side of the images; the model's input size by default, 224 without a model.
        seed: Seed of triggers that draw something for every image.
        device: Where a trigger is optimized.

    Returns:
        The record, as written to `trigger_images.json`.

    Raises:
        ClipAntidoteError: Bad or missing input, in one sentence.
    """
    if isinstance(maker, Attack) and not isinstance(maker, FixedTriggerAttack) and (spec is None or target is None):
        raise UsageError(
            f"the trigger of {maker.name} is optimized on a model and for a target class; give MODEL and --target"
        )
    check_place(data, out)
    with workplace(out, KIND):
        model = load_model(spec, device=device) if spec is not None else None
        source = {"attack": maker.name if isinstance(maker, Attack) else None, "model": spec, "target": None}
        if isinstance(maker, Trigger):
            trigger = maker
        elif isinstance(maker, FixedTriggerAttack):
            trigger = maker.trigger()
        else:
            assert model is not None
            assert target is not None
            trigger, source["target"] = optimize_trigger(
                maker, model, target, data, captions=captions, classes=classes
            )
        return run_trigger_images(
            trigger,
            data,
            out,
            image_size=image_size or (model.image_size if model is not None else DEFAULT_SIZE),
            mode=model.resize_mode if model is not None else "shortest",
            seed=seed,
            source=source,
        )


def optimize_trigger(
    attack: Attack,
    model: DualEncoder,
    target: str,
    data: str,
    *,
    captions: str | None = None,
    classes: str | None = None,
) -> tuple[Trigger, str]:
    """Lets an attack make its trigger on labelled images, without training the model.

    Returns:
        The trigger and the name of the target class as the data spells it.

    Raises:
        UsageError: The target is not one of the classes.
        DataError: The images or captions cannot be read.
    """
    train = load_images(data, split="train", classes=classes)
    name = train.classes[class_index(train.classes, target)]
    pairs = load_captions(captions) if captions else None
    own = CleanData.gather(attack.config, train, pairs, classes=train.classes, target=name)
    return attack.make_trigger(model, attack_material(model, attack, own)), name


def run_trigger_images(
    trigger: Trigger,
    data: str,
    out: Path,
    *,
    image_size: int = DEFAULT_SIZE,
    mode: str = "shortest",
    seed: int = 0,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Puts a trigger into images and writes them as PNG, since JPEG would wash out faint triggers.

    Args:
        trigger: The trigger.
        data: A folder whose images are all taken, however it is arranged; a CSV with the columns image,label;
            or `embedded:NAME` (its test split).
        out: Folder to write: `images/` with the names of the input, `trigger/` with the
            trigger and pictures of it, and `trigger_images.json`.
        image_size: Side of the images; they are resized to it before, as models do, and the trigger comes after.
        mode: How they are resized, see `resize_image`.
        seed: Seed of triggers that draw something for every image.
        source: Further entries for the record.

    Returns:
        The record, as written to `trigger_images.json`.

    Raises:
        DataError: There are no images, one cannot be read, or `out` cannot be written.
        UsageError: The image size is not positive.
    """
    if image_size < 1:
        raise UsageError(f"the image size must be at least 1 pixel, not {image_size}")
    check_place(data, out)
    images, names = find_pictures(data)
    record = {
        "trigger": trigger.name,
        "config": trigger.config.model_dump(mode="json"),
        "data": data,
        "images": len(images),
        "image_size": image_size,
        "resize_mode": mode,
        "seed": seed,
        "changes_text": trigger.apply_text("a photo") != "a photo",
        **(source or {}),
    }
    with result_folder(out, KIND) as folder:
        pictures = _triggered(trigger, images, image_size, mode, seed)
        pictures = track(pictures, f"applying {trigger.name}", total=len(images))
        for name, image in zip(names, pictures, strict=True):
            file = folder / "images" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(to_png(image))
        write_trigger(folder / "trigger", trigger, images.example(image_size, mode=mode))
        write_json(folder / "trigger_images.json", record)
    return record


def _triggered(trigger: Trigger, images: LabelledImages, size: int, mode: str, seed: int) -> Iterator[torch.Tensor]:
    """The images with the trigger, one by one, float [3, size, size] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    for batch, _ in images.batches(size, BATCH, mode=mode):
        yield from trigger(batch, generator)


def check_place(data: str, out: Path) -> None:
    """Finds out before any work whether `out` can be written and is no part of the input.

    Raises:
        DataError: It cannot, or writing it would touch the input.
    """
    source, place = Path(data).resolve(), out.resolve()
    inside = place == source or place in source.parents or (source.is_dir() and source in place.parents)
    if inside and not is_embedded(data):
        raise DataError(f"the output {out} and the images {data} overlap; choose an output folder apart from them")
    check_output(out, KIND)
