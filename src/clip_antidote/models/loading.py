"""From a model spec to a model with weights, without running anything that a checkpoint says."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import pretrained

from clip_antidote.errors import ModelError, UnsupportedError, UsageError
from clip_antidote.files import sha256_file
from clip_antidote.models.activation import activation_name, is_openai_layout
from clip_antidote.models.build import build_open_clip, check_supported
from clip_antidote.models.checkpoint import read_checkpoint
from clip_antidote.models.config_check import rough_parameters
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.models.preprocess import arch_preprocess, check_preprocess
from clip_antidote.models.spec import CONFIG_NAME, ModelSpec, parse_spec
from clip_antidote.models.tokenizers import tokenizer_factory
from clip_antidote.models.weights import load_weights

TINY_FOLDER = Path(__file__).parents[1] / "assets" / "tiny_clip"
_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
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


def load_model(spec: str | ModelSpec, *, device: str | torch.device = "cpu") -> OpenCLIPEncoder:
    """Loads a model in fp32, in evaluation mode.

    Args:
        spec: As for `parse_spec`.
        device: Where the model goes.

    Returns:
        The model, with `spec`, `sha256`, `model_cfg` and `preprocess_cfg` set.

    Raises:
        UsageError: The spec or the device is wrong.
        ModelError: The checkpoint cannot be had, cannot be read, or does not fit the architecture.
        UnsupportedError: It is of a kind that this package does not treat.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    place = _device(device)
    recipe = resolve(parsed)
    preprocess = check_preprocess(recipe.preprocess_cfg, recipe.name)
    model_cfg = dict(recipe.model_cfg)
    state = read_checkpoint(recipe.weights)
    model_cfg["quick_gelu"] = _quick_gelu(recipe, state)
    if "logit_bias" in state and model_cfg.get("init_logit_bias") is None:
        model_cfg["init_logit_bias"] = -10.0  # sigmoid training adds a bias to any architecture
    _check_extent(model_cfg, state, recipe)
    with torch.random.fork_rng(devices=[]):  # initial weights must not shift the caller's random numbers
        encoder = build_open_clip(
            model_cfg, preprocess, tokenizer_factory=tokenizer_factory(model_cfg, recipe.folder)
        )
    load_weights(encoder.model, state, recipe.weights, recipe.name)
    encoder.spec = str(parsed)
    encoder.sha256 = sha256_file(recipe.weights)
    return encoder.eval().to(place)


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
        torch.empty(0, device=place)
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


def resolve(spec: ModelSpec) -> Recipe:
    """Finds the architecture, the preprocessing and the file of a spec; downloads where the spec says so.

    Raises:
        ClipAntidoteError: As `load_model`.
    """
    if spec.kind == "open_clip":
        return _named(spec)
    if spec.kind == "hf-hub":
        return _from_hub(spec.source)
    if spec.kind == "tiny":
        return _from_folder(TINY_FOLDER)
    if spec.kind == "local-dir":
        return _from_folder(Path(spec.source))
    raise UsageError(f"unknown kind of model '{spec.kind}'; use parse_spec to make a spec")


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


def _from_hub(repo: str) -> Recipe:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise UnsupportedError(
            "hf-hub: models need huggingface_hub; install it with: pip install 'clip-antidote[hub]'"
        ) from error

    def download(*names: str) -> Path:
        for name in names:
            try:
                return Path(hf_hub_download(repo_id=repo, filename=name))
            except LocalEntryNotFoundError as error:
                raise _hub_error(repo, name, error) from error
            except EntryNotFoundError:
                continue
            except Exception as error:  # requests, httpx and the hub all fail differently
                raise _hub_error(repo, name, error) from error
        raise ModelError(f"the repository {repo} has no {names[0]}; use one in open_clip's own format")

    model_cfg, preprocess_cfg = read_model_config(download(CONFIG_NAME))
    return Recipe(repo, model_cfg, preprocess_cfg, download(*_HUB_WEIGHTS))


def _hub_error(repo: str, name: str, error: Exception) -> ModelError:
    return ModelError(
        f"cannot download {name} of {repo} from the Hugging Face hub ({type(error).__name__}); check the name and "
        "the network, or write local-dir:PATH with a copy"
    )


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
