"""Loading the folder of a transformers model: `config.json`, weights, preprocessing and tokenizer."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.files import sha256_file, write_tensors
from clip_antidote.models.checkpoint import read_checkpoint
from clip_antidote.models.hf_backend import HFEncoder
from clip_antidote.models.hf_config import HF_CONFIG_NAME, hf_config, hf_parameters, quiet, read_json
from clip_antidote.models.hf_tokenizer import TOKENIZER_CONFIG, TOKENIZER_FILES, hf_tokenizer_factory
from clip_antidote.models.preprocess import check_preprocess
from clip_antidote.models.weights import load_weights, stored_weights

HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_SIGLIP_IMAGES = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}


def load_transformers(folder: Path, name: str) -> HFEncoder:
    """Loads a `CLIPModel` or `SiglipModel` in fp32, in evaluation mode, on the CPU.

    Nothing of the folder is executed and nothing is fetched: of `config.json` and the tokenizer's files only known
    values are read, and the weights come through `read_checkpoint`.

    Args:
        folder: `config.json`, `model.safetensors` (or `pytorch_model.bin`), preprocessing and tokenizer.
        name: Names the model in messages.

    Raises:
        ModelError: A file is missing, damaged or does not fit the others.
        UnsupportedError: It is another kind of model, or transformers is missing.
    """
    config = hf_config(folder / HF_CONFIG_NAME)
    preprocess = check_preprocess(_preprocess(folder, config), name)
    weights = _weights(folder)
    state = read_checkpoint(weights)
    described, held = hf_parameters(config), sum(value.numel() for value in state.values())
    if described > 1.5 * held + 1_000_000:
        raise ModelError(
            f"the checkpoint {weights} holds {held} numbers, {folder / HF_CONFIG_NAME} describes about "
            f"{described:.0e}; use the files of one model"
        )
    import transformers

    kind = transformers.CLIPModel if config.model_type == "clip" else transformers.SiglipModel
    with quiet(), torch.random.fork_rng(devices=[]):  # initial weights must not shift the caller's random numbers
        model = kind(config).float()
    load_weights(model, state, weights, name)
    encoder = HFEncoder(model, hf_tokenizer_factory(folder, config), **preprocess)
    encoder.folder = folder
    encoder.sha256 = sha256_file(weights)
    return encoder.eval()


def save_transformers(encoder: HFEncoder, folder: Path) -> None:
    """Writes the folder of a transformers model, with the configuration and the tokenizer it was loaded with.

    Args:
        encoder: The model, loaded from a folder that is still there.
        folder: Existing folder to write to.

    Raises:
        ModelError: A weight is not finite; nothing is written.
    """
    assert encoder.folder is not None
    write_tensors(folder / HF_WEIGHTS[0], stored_weights(encoder.model), metadata={"format": "pt"})
    for name in (HF_CONFIG_NAME, *PREPROCESSORS, TOKENIZER_CONFIG, *TOKENIZER_FILES):
        if (encoder.folder / name).is_file():
            shutil.copyfile(encoder.folder / name, folder / name)


def _weights(folder: Path) -> Path:
    for name in HF_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise UnsupportedError(
                f"the weights in {folder} are split over several files, which is not supported; save the model again "
                "as one file (max_shard_size='100GB')"
            )
    raise ModelError(f"the model folder {folder} has no weights; put {HF_WEIGHTS[0]} there")


def _preprocess(folder: Path, config: Any) -> dict[str, Any]:
    """What its image processor does, in the words of open_clip's `preprocess_cfg`."""
    path = next((folder / name for name in PREPROCESSORS if (folder / name).is_file()), None)
    values = read_json(path) if path is not None else {}
    values = values.get("image_processor", values)
    if path is None or not isinstance(values, dict) or "image_mean" not in values:
        if config.model_type == "clip":
            return {}
        warnings.warn(f"{folder} does not say how its images are prepared, so SigLIP's way is assumed", stacklevel=3)
        return dict(_SIGLIP_IMAGES)
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if values.get(step, True) is not True:
            raise UnsupportedError(f"{path} sets {step} to {values[step]!r:.40}, which is not supported")
    factor = values.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float) or abs(255 * factor - 1) > 1e-3:
        raise UnsupportedError(f"{path} scales pixels by {factor!r:.40}; only 1/255 is supported")
    resample = values.get("resample", 3)
    return {
        "mean": values.get("image_mean"),
        "std": values.get("image_std"),
        "resize_mode": _resize_mode(values, config.vision_config.image_size, path, clip=config.model_type == "clip"),
        "interpolation": _INTERPOLATIONS.get(resample if isinstance(resample, int) else -1, "unknown"),
    }


def _resize_mode(values: dict[str, Any], side: int, path: Path, *, clip: bool) -> str:
    """ "squash" where both sides are given, "shortest" where the short one is and a crop follows."""
    size, crop = values.get("size", side), None
    cropped = values.get("do_center_crop", clip)
    if cropped:
        crop = _square(values.get("crop_size", side))
    short = size.get("shortest_edge") if isinstance(size, dict) else size if cropped else None
    if short is None:
        mode, result = "squash", _square(size)
    else:
        mode, result = "shortest", crop
    if result is None or (short is not None and type(short) is not int) or (crop is not None and crop != result):
        raise UnsupportedError(f"{path} resizes images to {size!r:.60}, which is not supported")
    if result != side:
        raise ModelError(
            f"{path} makes images of {result} pixels, the model takes {side}; use the files of one model"
        )
    if mode == "shortest" and short != side:
        warnings.warn(
            f"{path} resizes images to {short!s:.20} pixels and crops {side} of them; here they are resized to "
            f"{side}, which may cost a little accuracy",
            stacklevel=4,
        )
    return mode


def _square(size: Any) -> int | None:
    """The side of a square, given by one number or by two that are equal, None for anything else."""
    if isinstance(size, dict):
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size if type(size) is int else None
