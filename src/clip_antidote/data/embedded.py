"""The photographs that ship with the package: ten classes of clothes (CC0)."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch

from clip_antidote.data.classes import class_name
from clip_antidote.data.formats import PREFIX, Format, Pairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import TarSource, tar_spans
from clip_antidote.errors import DataError

ASSETS = Path(__file__).parent.parent / "assets"
SETS = ("clothing",)


_spans = cache(tar_spans)


def embedded_images(path: str, split: str) -> LabelledImages:
    """Returns one split of an embedded set; see `load_images`.

    Args:
        path: `embedded:NAME`.
        split: train, validation or test.

    Raises:
        DataError: There is no such set or split.
    """
    name = path.removeprefix(PREFIX)
    if name not in SETS:
        raise DataError(f"there are no embedded photographs '{name}'; known are {', '.join(SETS)}")
    archive = ASSETS / name / f"{name}.tar"
    spans = _spans(archive)
    members = sorted(name for name in spans if name.endswith(".jpg") and name.split("/")[0] == split)
    if not members:
        raise DataError(f"the embedded {name} photographs have no {split} split")
    classes = sorted({member.split("/")[1] for member in members})
    labels = torch.tensor([classes.index(member.split("/")[1]) for member in members])
    return LabelledImages(TarSource(archive, members, spans), labels, tuple(c.replace("_", " ") for c in classes))


def _read(path: str, split: str, pairs: Pairs) -> LabelledImages:
    images = embedded_images(path, split)
    return images if pairs is None else _rename(images, pairs, path)


EMBEDDED = Format(_read)


def _rename(images: LabelledImages, pairs: Sequence[tuple[str, str]], where: str) -> LabelledImages:
    old = {name.casefold(): label for label, name in enumerate(images.classes)}
    new_label = {}
    for label, (folder, _) in enumerate(pairs):
        if class_name(folder).casefold() not in old:
            raise DataError(f"{where} has no images of the class '{folder}'")
        new_label[old[class_name(folder).casefold()]] = label
    kept = [i for i, label in enumerate(images.labels.tolist()) if label in new_label]
    part = images.subset(kept)
    labels = torch.tensor([new_label[label] for label in part.labels.tolist()])
    return LabelledImages(part.source, labels, tuple(name for _, name in pairs))


def export_embedded(name: str, folder: Path) -> Iterable[Path]:
    """Unpacks an embedded set as split/class/image files below `folder`, yielding each path."""
    archive = ASSETS / name / f"{name}.tar"
    with tarfile.open(archive, "r:") as file:
        for member in file:
            if member.isfile():
                file.extract(member, folder, filter="data")
                yield folder / member.name
