"""From a model spec to a model with weights, without running anything that a checkpoint says."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import pretrained

from clip_antidote.errors import ModelError, UsageError
from clip_antidote.files import sha256_file
from clip_antidote.models.activation import activation_name, is_openai_layout
from clip_antidote.models.build import build_open_clip, check_supported
from clip_antidote.models.checkpoint import read_checkpoint
from clip_antidote.models.config_check import rough_parameters
from clip_antidote.models.difference import add_difference
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.hf_config import HF_CONFIG_NAME
from clip_antidote.models.hf_loading import load_transformers
from clip_antidote.models.hub import hub_folder
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.models.preprocess import arch_preprocess, check_preprocess
from clip_antidote.models.spec import CONFIG_NAME, ModelSpec, parse_spec
from clip_antidote.models.tokenizers import tokenizer_factory
from clip_antidote.models.weights import load_weights

ASSETS = Path(__file__).parents[1] / "assets"
TINY_FOLDER = ASSETS / "tiny_clip"
DIFFERENCE = "difference.safetensors"
FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
)


@dataclass
class Recipe:
    """What a spec stands for: the architecture, the preprocessing and the file."""

    name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    weights: Path
    folder: Path | None = None
    trained_quick_gelu: bool | None = None
    difference: Path | None = None


def load_model(spec: str | ModelSpec, *, device: str | torch.device = "cpu") -> DualEncoder:
    """Loads a model in fp32, in evaluation mode.

    Where a folder or a repository has open_clip's configuration, that is used; otherwise the one of transformers.

    Args:
        spec: As for `parse_spec`.
        device: Where the model goes.

    Returns:
        An `OpenCLIPEncoder` or an `HFEncoder`, with `spec`, `sha256`, `model_cfg` and `preprocess_cfg` set.

    Raises:
        UsageError: The spec or the device is wrong.
        ModelError: The checkpoint cannot be had, cannot be read, or does not fit the architecture.
        UnsupportedError: It is of a kind that this package does not treat.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    place = _device(device)
    home = home_folder(parsed)
    if home is not None and _is_transformers(parsed, home):
        encoder: DualEncoder = load_transformers(home, parsed.source)
    else:
        encoder = _load_open_clip(resolve(parsed, home))
    encoder.spec = str(parsed)
    return encoder.to(place)


def home_folder(spec: ModelSpec) -> Path | None:
    """The folder that a spec stands for, None where it stands for a checkpoint."""
    if spec.kind == "hf-hub":
        return hub_folder(spec.source)
    if spec.kind == "tiny":
        return TINY_FOLDER
    return Path(spec.source) if spec.kind in ("local-dir", "hf") else None


def _is_transformers(spec: ModelSpec, home: Path) -> bool:
    """Whether a folder is read as transformers': where that is asked for, or open_clip's configuration is missing."""
    if spec.kind != "hf":
        return (home / HF_CONFIG_NAME).is_file() and not (home / CONFIG_NAME).is_file()
    if not home.is_dir():
        hub = f", or write hf-hub:{home} to download the repository of this name" if len(home.parts) == 2 else ""
        raise ModelError(f"the model folder {home} does not exist; check the path{hub}")
    if (home / CONFIG_NAME).is_file() and not (home / HF_CONFIG_NAME).is_file():
        raise ModelError(f"the model folder {home} is in the format of open_clip; write local-dir:{home}")
    return True


def _load_open_clip(recipe: Recipe) -> OpenCLIPEncoder:
    preprocess = check_preprocess(recipe.preprocess_cfg, recipe.name)
    model_cfg = dict(recipe.model_cfg)
    state, sha256 = _read_weights(recipe)
    model_cfg["quick_gelu"] = _quick_gelu(recipe, state)
    if "logit_bias" in state and model_cfg.get("init_logit_bias") is None:
        model_cfg["init_logit_bias"] = -10.0  # sigmoid training adds a bias to any architecture
    _check_extent(model_cfg, state, recipe)
    with torch.random.fork_rng(devices=[]):  # initial weights must not shift the caller's random numbers
        encoder = build_open_clip(
            model_cfg, preprocess, tokenizer_factory=tokenizer_factory(model_cfg, recipe.folder)
        )
    load_weights(encoder.model, state, recipe.weights, recipe.name)
    encoder.sha256 = sha256
    return encoder.eval()


def _read_weights(recipe: Recipe) -> tuple[dict[str, torch.Tensor], str]:
    """Reads the weights, and the hash of the file that tells the model from others."""
    state, sha256 = read_checkpoint(recipe.weights), sha256_file(recipe.weights)
    if recipe.difference is None:
        return state, sha256
    return add_difference(state, recipe.difference, base_sha256=sha256), sha256_file(recipe.difference)


def _check_extent(model_cfg: dict[str, Any], state: dict[str, torch.Tensor], recipe: Recipe) -> None:
    """Takes no memory for a model that is far larger than the weights that should fill it."""
    described, held = rough_parameters(model_cfg), sum(value.numel() for value in state.values())
    if described > 2 * held + 100_000_000:
        raise ModelError(
            f"the checkpoint {recipe.weights} holds {held} numbers, {recipe.name} about {described:.0e}; name the "
            "architecture it was trained with"
        )


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).add(1).cpu()  # a GPU may be there that this build has no code for
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"the device '{device}' is not available here; use cpu") from error
    return place


def _quick_gelu(recipe: Recipe, state: dict[str, torch.Tensor]) -> bool:
    """Decides the activation from the evidence, and says so where the configuration disagrees."""
    stated = bool(recipe.model_cfg.get("quick_gelu", False))
    evidence, trained = "the table of pretrained weights says", recipe.trained_quick_gelu
    if is_openai_layout(state):
        evidence, trained = "the layout of OpenAI's release means", True
    if trained is None or trained == stated:
        return stated
    warnings.warn(
        f"{recipe.name} is configured with {activation_name(stated)}, but {evidence} that these weights were "
        f"trained with {activation_name(trained)}, which is used",
        stacklevel=3,
    )
    return trained


def resolve(spec: ModelSpec, home: Path | None = None) -> Recipe:
    """Finds the architecture, the preprocessing and the file of a spec; downloads where the spec says so.

    Args:
        spec: The spec.
        home: The folder it stands for, where that is known already.

    Raises:
        ClipAntidoteError: As `load_model`.
    """
    home = home or home_folder(spec)
    if spec.kind == "open_clip":
        return _named(spec)
    if home is not None and spec.kind == "hf-hub":
        return replace(_from_folder(home), name=spec.source, folder=None)
    if home is not None:
        return _from_folder(home)
    if spec.kind == "demo":
        return replace(_from_folder(TINY_FOLDER), name=str(spec), difference=demo_folder(spec.source) / DIFFERENCE)
    raise UsageError(f"unknown kind of model '{spec.kind}'; use parse_spec to make a spec")


def demo_folder(name: str) -> Path:
    """Where an embedded poisoned model lies: its difference to the embedded one, and its model card."""
    return ASSETS / f"demo_{name}"


def _named(spec: ModelSpec) -> Recipe:
    model_cfg = open_clip.get_model_config(spec.arch)
    if model_cfg is None:
        raise UsageError(f"open_clip has no architecture '{spec.arch}'; see open_clip.list_models()")
    check_supported(model_cfg)
    tag_cfg = open_clip.get_pretrained_cfg(spec.arch, spec.source)
    if tag_cfg:  # a file of the same name is reached as ./NAME
        try:
            weights = pretrained.download_pretrained(tag_cfg)
        except Exception as error:  # urllib, the hub and checksums all fail differently
            raise ModelError(
                f"cannot download the weights '{spec.source}' of {spec.arch} ({type(error).__name__}); check the "
                f"network, or write open_clip:{spec.arch}@PATH with a file you have"
            ) from error
        trained = bool(tag_cfg.get("quick_gelu", False))
        return Recipe(spec.arch, model_cfg, tag_cfg, Path(weights), trained_quick_gelu=trained)
    path = Path(spec.source)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(spec.arch)) or "none"
        raise UsageError(
            f"'{spec.source}' is neither a file nor a pretrained tag of {spec.arch}; its tags are: {tags}"
        )
    if path.is_dir() or not path.exists():
        read_checkpoint(path)  # raises the sentence for it before the architecture is looked at
    return Recipe(spec.arch, model_cfg, arch_preprocess(spec.arch), path)


def _from_folder(folder: Path) -> Recipe:
    if not folder.is_dir():
        raise ModelError(f"the model folder {folder} does not exist; check the path")
    model_cfg, preprocess_cfg = read_model_config(folder / CONFIG_NAME)
    for name in FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return Recipe(str(folder), model_cfg, preprocess_cfg, folder / name, folder)
    raise ModelError(f"the model folder {folder} has no weights; put {FOLDER_WEIGHTS[0]} there")


def read_model_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads open_clip's configuration file: the architecture and the preprocessing.

    Raises:
        ModelError: The file is missing or does not describe a model.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"the model folder {path.parent} has no {path.name}; add it or name another") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path} as JSON; copy or download it again") from error
    model_cfg = config.get("model_cfg") if isinstance(config, dict) else None
    preprocess_cfg = config.get("preprocess_cfg", {}) if isinstance(config, dict) else None
    if not isinstance(model_cfg, dict) or not isinstance(preprocess_cfg, dict):
        raise ModelError(f"{path} has no model_cfg; use the file that open_clip wrote for this model")
    check_supported(model_cfg)
    return model_cfg, preprocess_cfg
