"""Mutated data sets in the forms of other tools, and class lists: each is read, or ends in one sentence."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from guard import fuzz
from inputs import tar
from mutations import mutate_bytes, mutate_json

from clip_antidote.benchmark.published import read_published
from clip_antidote.data.classes import read_classes
from clip_antidote.data.folders import load_images
from clip_antidote.prompts.templates import load_templates
from conftest import draw_photos

Read = Callable[[], object]
CLASSES = ("cat", "dog")


def read_all(path: Path, *, classes: Path | None = None) -> Read:
    """Finds the images and decodes them."""

    def read() -> None:
        images = load_images(path, classes=classes)
        assert len(images.labels) == len(images.source) > 0
        assert 0 <= int(images.labels.min()) <= int(images.labels.max()) < len(images.classes)
        images.tensor(16)

    return read


def test_splits_of_coop(tmp_path: Path) -> None:
    rows = [[f"{name}/{i}.png", label, name] for label, name in enumerate(CLASSES) for i in range(2)]
    lists = {"train": rows, "val": [], "test": rows}

    def case(draw: random.Random, folder: Path) -> Read:
        draw_photos(folder / "images", classes=CLASSES, count=2)
        (folder / "split_zhou_X.json").write_bytes(mutate_json(lists, draw))
        return read_all(folder)

    fuzz(120, tmp_path, case)


def test_metadata(tmp_path: Path) -> None:
    rows = [{"file_name": f"{name}/{i}.png", "label": name} for name in CLASSES for i in range(2)]

    def case(draw: random.Random, folder: Path) -> Read:
        draw_photos(folder, classes=CLASSES, count=2)
        if draw.random() < 0.5:
            lines = [json.dumps(row).encode() for row in rows]
            chosen = draw.randrange(len(lines))
            lines[chosen] = mutate_json(rows[chosen], draw).replace(b"\n", b" ")
            (folder / "metadata.jsonl").write_bytes(b"\n".join(lines))
        else:
            text = "file_name,label\n" + "".join(f"{row['file_name']},{row['label']}\n" for row in rows)
            (folder / "metadata.csv").write_bytes(mutate_bytes(text.encode(), draw))
        return read_all(folder)

    fuzz(120, tmp_path, case)


def test_labelled_shards(tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", classes=CLASSES, count=2)
    members = []
    for label, name in enumerate(CLASSES):
        for i in range(2):
            members.append((f"{name}{i}.png", (photos / name / f"{i}.png").read_bytes()))
            named = (f"{name}{i}.json", json.dumps({"label": label}).encode())
            members.append(named if i else (f"{name}{i}.cls", str(label).encode()))

    def case(draw: random.Random, folder: Path) -> Read:
        data = tar(members, draw) if draw.random() < 0.5 else mutate_bytes(tar(members), draw)
        (folder / "x.tar").write_bytes(data)
        names = "\n".join(CLASSES).encode()
        (folder / "classnames.txt").write_bytes(mutate_bytes(names, draw) if draw.random() < 0.3 else names)
        return read_all(folder)

    fuzz(120, tmp_path, case)


def test_lists_in_json(tmp_path: Path) -> None:
    index = {str(number): [f"n0000000{number}", name] for number, name in enumerate(CLASSES)}
    lists = [list(CLASSES), {"pets": list(CLASSES), "more": ["a {c}", "b {}"]}, index]
    published = {"rows": [{"defense": "a", "attack": "b", "backbone": "c", "ca": 1.0, "source": "d"}]}

    def case(draw: random.Random, folder: Path) -> Read:
        file = folder / "x.json"
        kind = draw.randrange(3)
        if kind == 2:
            (folder / "published.json").write_bytes(mutate_json(published, draw))
            return lambda: read_published(folder)
        file.write_bytes(mutate_json(draw.choice(lists), draw))
        named = draw.choice([file, folder / "x.json#pets", folder / "x.json#"])
        return lambda: read_classes(named) if kind else load_templates(named)

    fuzz(120, tmp_path, case)
