"""The job of `clip-antidote train`: a small CLIP from scratch."""

from __future__ import annotations

from pathlib import Path

import torch

from clip_antidote.config import merge_settings
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.loading import read_model_config
from clip_antidote.training.pretrain import PretrainConfig, pretrain
from clip_antidote.training.step_log import logged_to

KIND = "trained model"


def train_settings(file: Path | None = None, *, seed: int | None = None) -> PretrainConfig:
    """Reads the settings of a training; a seed that is given wins over the file's."""
    return PretrainConfig.build(merge_settings(file, {"seed": seed}))


def run_train(
    architecture: Path,
    data: Path,
    out: Path,
    config: PretrainConfig,
    *,
    device: str = "cpu",
    log: str | None = None,
) -> None:
    """Trains a model with random weights and writes its folder (`local-dir:OUT`).

    An interrupted run goes on with the same architecture, data and settings only; with others it begins anew.

    Args:
        architecture: open_clip's configuration of the model.
        data: Problem folder, see `data.problem`.
        out: Model folder to write; see `outputs.check_output` for what may be there.
        config: Settings.
        device: Where to compute.
        log: Where to log every step, see `training.step_log`.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    with logged_to(log), workplace(out, KIND) as work:
        model_cfg, preprocess_cfg = read_model_config(architecture)
        state = work.resume(["train", model_cfg, preprocess_cfg, str(data), config.model_dump(mode="json")])
        torch.manual_seed(config.seed)
        model = build_open_clip(model_cfg, preprocess_cfg).to(device)
        pretrain(model, data, config, state_file=state / "training.pt")
        with work.result() as folder:
            save_open_clip(model, None, folder, half=True)
