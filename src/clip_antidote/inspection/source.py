"""From what a user names to the files to look at: a spec, a bare file, or a folder of any kind."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_antidote.errors import ClipAntidoteError, ModelError
from clip_antidote.inspection.formats import CHECKPOINTS
from clip_antidote.models.hf_config import HF_CONFIG_NAME, read_json
from clip_antidote.models.hf_loading import HF_WEIGHTS
from clip_antidote.models.loading import FOLDER_WEIGHTS, home_folder, read_model_config, resolve
from clip_antidote.models.spec import CONFIG_NAME, parse_spec

FILE, OPEN_CLIP, TRANSFORMERS = "file", "open_clip folder", "transformers folder"
CLASSIFIER, FOLDER = "purified classifier", "folder"
MOST_FILES = 50
"""Files of a folder that are looked at."""

_ARTEFACT_WEIGHTS = ("classifier.safetensors", "guard.safetensors", "prompts.safetensors")


@dataclass
class Source:
    """What is inspected.

    Attributes:
        model: The spec or path, as given.
        kind: One of the constants here.
        weights: The file that the model is loaded from; None where a folder has none.
        others: Further files that may hold weights.
        spec: What loads the model; None where only the tensors could tell.
        arch: The architecture that is stated.
        model_cfg: The configuration that is stated.
        preprocess_cfg: The preprocessing that is stated.
        trained_quick_gelu: What the table of published weights says of the activation.
        code: Files of Python code in the folder, and why they are code.
        doubts: What is assumed, a sentence each.
        faults: What is wrong with the folder, a sentence each.
    """

    model: str
    kind: str
    weights: Path | None
    others: list[Path] = field(default_factory=list)
    spec: str | None = None
    arch: str | None = None
    model_cfg: dict[str, Any] | None = None
    preprocess_cfg: dict[str, Any] | None = None
    trained_quick_gelu: bool | None = None
    code: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def find_source(model: str) -> Source:
    """Reads a spec or a path.

    Args:
        model: A model spec, which may download as `load_model` does; or the path of a file or a folder.

    Raises:
        ModelError: There is no such file or folder.
        ClipAntidoteError: The spec is wrong, or its model cannot be had.
    """
    path = Path(model)
    try:
        if model and path.is_dir():
            return _folder(model, path)
        if model and path.exists():
            return _file(model, path)
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ModelError(f"cannot read {model:.200}: {getattr(error, 'strerror', None) or error}") from error
    if ":" not in model and (path.suffix in CHECKPOINTS or "/" in model):
        raise ModelError(f"there is no file or folder {model:.500}; check the path")
    spec = parse_spec(model)
    folder = home_folder(spec)
    if folder is not None:
        if not folder.is_dir():
            raise ModelError(f"the model folder {folder} does not exist; check the path")
        found = _folder(model, folder)
        if found.kind in (OPEN_CLIP, TRANSFORMERS):
            found.spec = str(spec)
        return found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        recipe = resolve(spec)
    return Source(
        model,
        FILE,
        recipe.weights,
        spec=str(spec),
        arch=spec.arch or None,
        model_cfg=recipe.model_cfg,
        preprocess_cfg=recipe.preprocess_cfg,
        trained_quick_gelu=recipe.trained_quick_gelu,
        doubts=[str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)],
    )


def _file(model: str, path: Path) -> Source:
    if not path.is_file():
        raise ModelError(f"{model:.500} is no regular file; name a checkpoint or a folder")
    return Source(model, FILE, path)


def _folder(model: str, folder: Path) -> Source:
    """Tells the kind of a folder from the names in it."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    kind = FOLDER
    order: tuple[str, ...] = (*FOLDER_WEIGHTS, *HF_WEIGHTS)
    if CONFIG_NAME in names:
        kind, order = OPEN_CLIP, FOLDER_WEIGHTS
    elif "classifier.safetensors" in names:
        kind, order = CLASSIFIER, _ARTEFACT_WEIGHTS
    elif HF_CONFIG_NAME in names:
        kind, order = TRANSFORMERS, HF_WEIGHTS
    checkpoints = [name for name in names if Path(name).suffix.lower() in CHECKPOINTS]
    chosen = next((name for name in order if name in names), None)
    if chosen is None and kind == FOLDER and len(checkpoints) == 1:
        chosen = checkpoints[0]
    others = [folder / name for name in checkpoints if name != chosen]
    source = Source(model, kind, folder / chosen if chosen else None, others)
    code = [name for name in names if name.endswith(".py")]
    if code:
        source.code.append(f"the file {code[0]}{f' (of {len(code)} such files)' if len(code) > 1 else ''}")
    if kind == OPEN_CLIP:
        source.spec = f"local-dir:{folder}"
        try:
            source.model_cfg, source.preprocess_cfg = read_model_config(folder / CONFIG_NAME)
        except ClipAntidoteError as error:
            source.faults.append(str(error))
    elif kind == TRANSFORMERS:
        source.spec = f"hf:{folder}"
        if _names_code(folder / HF_CONFIG_NAME):
            source.code.append(f"the entry auto_map of {HF_CONFIG_NAME}")
    if chosen is None:
        source.faults.append(f"the folder {folder} has no weights that could be loaded")
    return source


def _names_code(config: Path) -> bool:
    """Whether a configuration of transformers names code to be run."""
    try:
        return "auto_map" in read_json(config)
    except ModelError:
        return False
