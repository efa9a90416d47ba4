"""Images of any folder, for commands that need no labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from clip_antidote.data.folders import load_images
from clip_antidote.data.formats import is_embedded
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import IMAGE_SUFFIXES, FileSource, ImageSource
from clip_antidote.errors import DataError


def find_pictures(data: str) -> tuple[LabelledImages, list[str]]:
    """Finds images and the names their PNG files get, which keep the folders of the input.

    Returns:
        The images (their labels say nothing) and one relative path each, ending in .png.

    Raises:
        DataError: There are none, or two of them would get the same name.
    """
    root = Path(data)
    if is_embedded(data):
        embedded = load_images(data, split="test").source
        return _unlabelled(embedded), _png_names([embedded.name(i) for i in range(len(embedded))])
    if not root.exists():
        raise DataError(f"there is no folder or file {root}")
    if root.is_dir():
        found = (path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        files = sorted(path for path in found if not _hidden(path.relative_to(root)))
        if not files:
            raise DataError(f"{root} has no images; known are {', '.join(sorted(IMAGE_SUFFIXES))}")
        return _unlabelled(FileSource(files)), _png_names([str(path.relative_to(root)) for path in files])
    listed = load_images(root).source
    names = [os.path.relpath(listed.name(i), root.parent) for i in range(len(listed))]
    outside = next((name for name in names if Path(name).parts[0] == os.pardir), None)
    if outside is not None:
        raise DataError(f"{root} lists {outside}, which is outside of its folder; give the folder of the images")
    return _unlabelled(listed), _png_names(names)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _unlabelled(source: ImageSource) -> LabelledImages:
    return LabelledImages(source, torch.zeros(len(source), dtype=torch.long), ("image",))


def _png_names(names: Sequence[str]) -> list[str]:
    taken: dict[str, str] = {}
    for name in names:
        png = str(Path(name).with_suffix(".png"))
        if png in taken:
            raise DataError(f"{taken[png]} and {name} would both be written as {png}; rename one of them")
        taken[png] = name
    return list(taken)
