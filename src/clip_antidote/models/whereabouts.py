"""Where the weights of a model lie, told without opening them."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.models.hf_loading import HF_WEIGHTS
from clip_antidote.models.loading import FOLDER_WEIGHTS
from clip_antidote.models.spec import CONFIG_NAME, downloads, parse_spec


def weights_file(spec: str) -> Path | None:
    """The file that `load_model` takes the weights from and whose hash is the model's, of a model on this machine.

    Args:
        spec: As for `load_model`.

    Returns:
        The file, which may not exist; None of a model that is downloaded, comes with the package, or lies in a folder
        without weights.

    Raises:
        UsageError: As `parse_spec`.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "open_clip":
        return None if downloads(spec) else Path(parsed.source)
    if parsed.kind not in ("local-dir", "hf"):
        return None
    folder = Path(parsed.source)
    open_clip = parsed.kind == "local-dir" and (folder / CONFIG_NAME).is_file()
    names = FOLDER_WEIGHTS if open_clip else HF_WEIGHTS
    return next((folder / name for name in names if (folder / name).exists()), None)
