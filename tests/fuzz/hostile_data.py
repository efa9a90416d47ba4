"""Cases that break what people write: settings, lists, images, archives, records, commands."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import payloads
import yaml
from cases import Case, Kind, evaluate
from inputs import ODD_LINES, ODD_YAML, change, mutate_lines, picture, problem_archives, tar
from mutations import mutate_bytes, mutate_json, mutate_tree
from test_fuzz_commands import arguments

RECORDS = Path(__file__).parents[2] / "docs" / "records" / "zoo_120"
LARGEST = 30
"""Honest numbers of steps and images are bounded by this: a billion steps are long work, and no fault."""


def _tame(value: Any) -> Any:
    """The same with honest numbers bounded; those that no setting may have stay."""
    if isinstance(value, dict):
        return {key: _tame(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_tame(inner) for inner in value[:LARGEST]]
    return LARGEST if type(value) in (int, float) and LARGEST < value < 1e300 else value


def _as_yaml(tree: Any) -> str:
    """The tree as YAML; where it is too deep for the writer, as JSON, which is YAML too."""
    try:
        return str(yaml.safe_dump(tree))
    except RecursionError:
        return json.dumps(tree, default=str)


def settings(case: Case) -> list[str]:
    data = str(case.base.problem)
    name = case.draw.choice(["purify", "attack", "train", "train-stego"])
    base = case.base.folder / f"{name.removesuffix('-stego')}.yaml"
    kind = case.draw.random()
    file = case.inputs / "settings.yaml"
    if kind < 0.3:
        file.write_bytes(case.draw.choice([*ODD_YAML, *payloads.yaml_texts(case.canary)]))
    elif kind < 0.6:
        file.write_bytes(mutate_bytes(base.read_bytes(), case.draw))
    else:
        tree = mutate_tree(yaml.safe_load(base.read_text()), case.draw)
        file.write_text(_as_yaml(_tame(tree) if isinstance(tree, dict) else tree), errors="replace")
    shown = ["--show-config"] if kind < 0.6 or name == "train-stego" else []
    words = {
        "purify": ["purify", case.model, "--data", data, "--shots", "2"],
        "attack": ["attack", case.model, "--data", data, "--target", "dog"],
        "train": ["train", "--architecture", str(case.base.model / "open_clip_config.json"), "--data", data],
        "train-stego": ["train-stego", "--data", data],
    }
    return [*words[name], "--out", "out", "--config", str(file), *shown]


def grid(case: Case) -> list[str]:
    file = case.inputs / "grid.yaml"
    values = yaml.safe_load((case.base.folder / "grid.yaml").read_text())
    if case.draw.random() < 0.4:
        file.write_bytes(case.draw.choice([*ODD_YAML, *payloads.yaml_texts(case.canary)]))
    else:
        tree = mutate_tree(values, case.draw)
        file.write_text(_as_yaml(_tame(tree)), errors="replace")
    verb = case.draw.choice(["prepare", "prepare", "run", "population"])
    words = ["benchmark", verb, str(file), "--data", str(case.base.problem), "--out", "out"]
    return [*words, "--config", str(case.base.folder / "purify.yaml")] if verb == "run" else words


def table(case: Case) -> list[str]:
    rows = [["image", "label"], *([f"{i}.png", "ab"[i % 2]] for i in range(4))]
    for i in range(4):
        (case.inputs / f"{i}.png").write_bytes(picture())
    text, head = io.StringIO(), case.draw.choice(["label", "caption"])
    csv.writer(text).writerows([["image", head], *mutate_lines(rows[1:], case.draw)])
    data = text.getvalue().encode("utf-8", "replace")
    file = case.inputs / "list.csv"
    file.write_bytes(data if case.draw.random() < 0.5 else mutate_bytes(data, case.draw))
    if head == "label":
        return ["evaluate", case.model, "--data", str(file)]
    return _captions(case, file)


def _captions(case: Case, file: Path) -> list[str]:
    return ["attack", case.model, "--data", str(case.base.problem), "--captions", str(file), "--target", "dog",
            "--config", str(case.base.folder / "attack.yaml"), "--out", "out"]  # fmt: skip


def lines(case: Case) -> list[str]:
    good = ["# classes", "cat", "dog = hot dog", "sea_horse = {}", "a photo of a {}."]
    own = [line for line in good if case.draw.random() < 0.9]
    if case.draw.random() < 0.6:
        odd = [*ODD_LINES, "{{ 7*7 }}", "<script>alert(1)</script>", "{0.__class__.__init__.__globals__}"]
        own.insert(case.draw.randrange(len(own) + 1), case.draw.choice(odd))
    data = "\n".join(own).encode("utf-8", "replace")
    file = case.inputs / "lines.txt"
    file.write_bytes(data if case.draw.random() < 0.5 else mutate_bytes(data, case.draw))
    if case.draw.random() < 0.3:
        return ["purify", case.model, "--data", str(case.base.problem), "--shots", "2", "--templates", str(file),
                "--config", str(case.base.folder / "purify.yaml"), "--out", "out"]  # fmt: skip
    return evaluate(case, case.model, "--classes", file)


def images(case: Case) -> list[str]:
    folder = case.copy("problem")
    place = folder / "test" / "cat"
    kind = case.draw.random()
    if kind < 0.3:
        name, data = case.draw.choice(payloads.images(case.canary))
        (place / name).write_bytes(data)
    elif kind < 0.5:
        payloads.odd_files(place, case.draw)
    else:
        form = case.draw.choice(["PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM"])
        (place / "a.png").write_bytes(mutate_bytes(picture(form), case.draw))
    if case.draw.random() < 0.7:
        return ["evaluate", case.model, "--data", str(folder)]
    return ["attack", "--trigger-only", "--trigger", "badnet", "--data", str(folder / "test"), "--out", "out",
            "--image-size", "32"]  # fmt: skip


def shards(case: Case) -> list[str]:
    members = [("0.jpg", picture("JPEG")), ("0.txt", b"a cat"), ("1.png", picture()), ("1.json", b'{"caption": "a"}')]
    data = payloads.hostile_tar(case.canary, case.draw) if case.draw.random() < 0.3 else tar(members, case.draw)
    file = case.inputs / "shard.tar"
    file.write_bytes(data if case.draw.random() < 0.6 else mutate_bytes(data, case.draw))
    return _captions(case, file)


def archives(case: Case) -> list[str]:
    whole = problem_archives()
    broken = case.draw.choice(list(whole))
    for name, members in whole.items():
        data = tar(members, case.draw if name == broken else None)
        if name == broken:
            kind = case.draw.random()
            if kind < 0.3:
                data = payloads.hostile_tar(case.canary, case.draw)
            elif kind < 0.6:
                data = mutate_bytes(data, case.draw)
        (case.inputs / f"{name}.tar").write_bytes(data)
    return ["data", "prepare", "--from", str(case.inputs), "--out", "out"]


def records(case: Case) -> list[str]:
    folder = case.work / "bench"
    folder.mkdir()
    runs = (RECORDS / "runs.jsonl").read_bytes().splitlines()[:3]
    chosen = case.draw.randrange(len(runs))
    suspects = json.loads((RECORDS / "suspects.json").read_text(encoding="utf-8"))
    known = dict(list(suspects.items())[:3])
    data = json.dumps(known).encode()
    if case.draw.random() < 0.6:
        runs[chosen] = mutate_json(json.loads(runs[chosen]), case.draw).replace(b"\n", b" ")
    else:
        data = mutate_json(known, case.draw)
    (folder / "runs.jsonl").write_bytes(b"\n".join(runs) + b"\n")
    (folder / "suspects.json").write_bytes(data)
    if case.draw.random() < 0.3:
        (folder / "zoo" / "x").mkdir(parents=True)
        (folder / "zoo" / "x" / "attack.json").write_bytes(mutate_json(known, case.draw))
    case.replaced.add("bench/suspects.json")
    return ["benchmark", case.draw.choice(["table", "zoo"]), "--out", "bench"]


def command_line(case: Case) -> list[str]:
    good = {
        "MODEL": case.model,
        "DATA": str(case.base.problem),
        "NUMBER": "1",
        "FILE": str(case.base.problem / "test" / "cat" / "0.png"),
        "OUT": "out",
    }
    return [word for word in arguments(case.draw, good) if "\0" not in word]


def earlier_result(case: Case) -> list[str]:
    """A folder stands in the way: a result of ours, one with a broken marker, or one with files of the user."""
    place = Path(shutil.copytree(case.base.artefact, case.work / "out"))
    os.mkfifo(case.work / "pipe")
    kind = case.draw.random()
    if kind < 0.4:
        (place / "thesis.doc").write_text("years of work")
    elif kind < 0.8:
        change(place / ".clip-antidote.json", case.draw)
        case.replaced.add("out")  # where the marker still says what it said
    else:
        (place / "photos").symlink_to(case.base.problem)
    purify = ["purify", case.model, "--data", str(case.base.problem), "--shots", "1", "--out", "out",
              "--config", str(case.base.folder / "purify.yaml")]  # fmt: skip
    outs = ["out", ".", "..", "/", "out/..", "out/photos", "out/", "thesis.txt/x", "pipe"]
    out = case.draw.choice(outs)
    return case.draw.choice(
        [
            purify,
            ["data", "export", "--out", out],
            ["export", str(case.base.artefact), "--model", case.model, "--out", out],
            evaluate(case, case.model, "--json", out),
        ]
    )


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (settings, grid, table, lines, images, shards, archives, records, command_line, earlier_result)
}
