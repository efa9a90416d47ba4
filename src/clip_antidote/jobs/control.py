"""The job that makes a clean control: the fine-tuning of the attacks, without any poison."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.config import Config
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.slices import DataSlice
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.files import write_json
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.saving import save_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.training.augment import STORE_MARGIN
from clip_antidote.training.finetune import finetune
from clip_antidote.training.loop import TrainingConfig

KIND = "clean control"
_RECIPE = AttackConfig()


class ControlConfig(Config):
    """Settings of a clean control; the defaults are those of the attacks.

    Attributes:
        class_bank: Whether every batch also holds one caption of each class, as negatives.
        min_scale: Smallest crop of the augmentation, as share of the area.
        slice: Which labelled images to take, and how they are worded.
        training: The fine-tuning.
        seed: Seed of the training.
    """

    class_bank: bool = _RECIPE.class_bank
    min_scale: float = Field(_RECIPE.min_scale, gt=0, le=1)
    slice: DataSlice = DataSlice()
    training: TrainingConfig = _RECIPE.training
    seed: int = 0


def run_control_job(
    spec: str, config: ControlConfig, data: str, out: Path, *, most_test: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Fine-tunes a clean model on clean pairs and writes the result folder (`local-dir:OUT`).

    A defense that reports a target here raises a false alarm: the model has been through all an
    attacked one has been through, but for the poison.

    Args:
        spec: Model spec of the clean model.
        config: Settings.
        data: Labelled images; the test split measures the clean accuracy.
        out: Folder to write; see `outputs.check_output` for what may be there. A finished run with the same settings
            is kept.
        most_test: Most test images to measure on; all by default.
        device: Where to compute.

    Returns:
        The record, as written to `control.json`.
    """
    with workplace(out, KIND) as work:
        model = load_model(spec, device=device)
        state = work.resume(["control", model.sha256, config.model_dump(mode="json"), data])
        record = work.finished("control.json")
        if record is not None:
            return record
        train, test = load_images(data, split="train"), load_images(data, split="test").at_most(most_test)
        tuned, seconds = _finetuned(model, train, config, state)
        before, after = (
            measure(ZeroShotClassifier.from_templates(m, test.classes), encode_test_images(m, test)).metrics.to_dict()
            for m in (model, tuned)
        )
        record = {
            "model": {"spec": spec, "sha256": model.sha256},
            "data": data,
            "measured_on": f"{len(test)} test images",
            "attack": "clean",
            "target": None,
            "config": config.model_dump(mode="json"),
            "clean": before,
            "poisoned": after,
            "seconds": round(seconds, 1),
            "implant_check": "none: not poisoned",
            "run": work.run,
        }
        with work.result() as folder:
            save_model(tuned, folder)
            write_json(folder / "control.json", record)
    return record


def _finetuned(
    model: DualEncoder, train: LabelledImages, config: ControlConfig, state: Path
) -> tuple[DualEncoder, float]:
    """Fine-tunes a copy of the model and says how many seconds it took."""
    size = round(model.image_size * STORE_MARGIN)
    pairs = config.slice.pairs(train, model.tokenize, size, mode=model.resize_mode, class_bank=config.class_bank)
    tuned = copy.deepcopy(model).requires_grad_(True)
    start = time.perf_counter()
    finetune(
        tuned,
        pairs,
        config.training,
        min_scale=config.min_scale,
        seed=config.seed,
        description="training a clean control",
        state_file=state / "training.pt",
    )
    return tuned, time.perf_counter() - start
