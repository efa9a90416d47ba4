"""Mutated files for every reader: each case ends well or in one sentence, and nothing runs, connects or escapes."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from guard import fuzz
from inputs import (
    ARTEFACT_FILES,
    ODD_LINES,
    ODD_YAML,
    artefact,
    change,
    mutate_configuration,
    mutate_lines,
    odd_tensors,
    picture,
    problem_archives,
    tar,
)
from mutations import mutate_bytes, mutate_json, mutate_tree
from safetensors.torch import save_file

from clip_antidote.benchmark.comparing import compare
from clip_antidote.benchmark.costs import costs_table
from clip_antidote.benchmark.grid import GridConfig
from clip_antidote.benchmark.leaderboard import leaderboard
from clip_antidote.benchmark.pairing import Pair
from clip_antidote.benchmark.runs_csv import runs_csv
from clip_antidote.benchmark.store import read_runs, read_suspects
from clip_antidote.benchmark.tables import curve_table, results_table, summary_table, zoo_table
from clip_antidote.config import read_yaml
from clip_antidote.data.captions import load_captions
from clip_antidote.data.classes import read_classes
from clip_antidote.data.folders import load_images
from clip_antidote.data.problem import prepare_problem
from clip_antidote.data.sources import decode_image
from clip_antidote.detection.scores import ClassScore
from clip_antidote.detection.search import SearchResult
from clip_antidote.detection.state import kept_search, save_search
from clip_antidote.errors import ClipAntidoteError
from clip_antidote.files import finished_record
from clip_antidote.inspection.record import Inspection
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.jobs.attack import make_attack
from clip_antidote.jobs.inspect import run_inspect
from clip_antidote.jobs.purify import purify_settings
from clip_antidote.models import load_model, read_checkpoint
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.outputs import MARKER, check_output, result_folder
from clip_antidote.prompts.templates import load_templates
from clip_antidote.purification.artefact import KIND
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.training.optim import build_adamw
from clip_antidote.training.state import TrainingState
from clip_antidote.triggers import TRIGGERS, load_trigger
from clip_antidote.triggers.additive import AdditiveTrigger
from clip_antidote.triggers.mask import MaskTrigger
from clip_antidote.triggers.patch import PatchTrigger
from clip_antidote.triggers.reflection import ReflectionTrigger
from conftest import SMALL

RECORDS = Path(__file__).parents[2] / "docs" / "records" / "zoo_120"
Read = Callable[[], object]


@pytest.fixture(scope="module")
def micro() -> OpenCLIPEncoder:
    torch.manual_seed(0)
    return build_open_clip(SMALL).eval()


def test_checkpoints(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.float16)}
    bases = [tmp_path / "base.pt", tmp_path / "base.safetensors"]
    torch.save({"state_dict": state, "epoch": 3}, bases[0])
    save_file(state, bases[1])

    def case(draw: random.Random, folder: Path) -> Read:
        base = draw.choice(bases)
        file = folder / f"x{base.suffix}"
        file.write_bytes(mutate_bytes(base.read_bytes(), draw))
        return lambda: read_checkpoint(file)

    fuzz(150, tmp_path, case)


class _Runs:
    """Would run a command, were it unpickled as usual."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_inspections(tmp_path: Path, micro: OpenCLIPEncoder) -> None:
    state = {"visual.conv1.weight": torch.ones(3, 2), "text.ln_final.weight": torch.zeros(4, dtype=torch.float16)}
    bases = [tmp_path / name for name in ("a.pt", "b.pt", "c.pt", "d.safetensors", "e.pkl", "f.pkl")]
    for base, content, zipped in zip(
        bases[:3], ({"state_dict": state, "epoch": 3}, {"model": state, "x": _Runs()}, state), (1, 1, 0), strict=True
    ):
        torch.save(content, base, _use_new_zipfile_serialization=bool(zipped))
    save_file(state, bases[3])
    bases[4].write_bytes(pickle.dumps([_Runs(), state], protocol=4))
    bases[5].write_bytes(pickle.dumps({"a": [_Runs()] * 3, "b": {1.5: "x"}}, protocol=0))
    folder_base = tmp_path / "folder"
    folder_base.mkdir()
    save_open_clip(micro, None, folder_base)

    def case(draw: random.Random, folder: Path) -> Read:
        if draw.random() < 0.2:
            shutil.copytree(folder_base, folder, dirs_exist_ok=True)
            change(draw.choice(sorted(folder.iterdir())), draw)
            path = folder
        else:
            base = draw.choice(bases)
            path = folder / f"x{base.suffix}"
            path.write_bytes(mutate_bytes(base.read_bytes(), draw))

        def read() -> None:
            seen = run_inspect(str(path), json_file=folder / "x.json", sarif_file=folder / "x.sarif", zero_shot=False)
            assert Inspection.model_validate_json((folder / "x.json").read_text(encoding="utf-8")) == seen
            assert all(len(found.message) < 3000 for found in seen.findings)
            json.loads((folder / "x.sarif").read_text(encoding="utf-8"))

        return read

    fuzz(200, tmp_path / "cases", case)


def test_open_clip_configurations(tmp_path: Path, micro: OpenCLIPEncoder) -> None:
    base = tmp_path / "base"
    base.mkdir()
    save_open_clip(micro, None, base)
    config = json.loads((base / "open_clip_config.json").read_text())

    def case(draw: random.Random, folder: Path) -> Read:
        data = mutate_configuration(config, draw)
        (folder / "open_clip_config.json").write_bytes(data)
        (folder / "open_clip_model.safetensors").symlink_to(base / "open_clip_model.safetensors")

        def read() -> None:
            model = load_model(f"local-dir:{folder}")
            model.encode_images(torch.rand(2, 3, model.image_size, model.image_size))
            if draw.random() < 0.3:
                model.encode_texts(["a cat", "a dog"])

        return read

    fuzz(200, tmp_path, case)


def test_artefacts(tmp_path: Path, micro: OpenCLIPEncoder) -> None:
    base = tmp_path / "base"
    artefact(micro, base)
    images = torch.rand(2, 3, micro.image_size, micro.image_size)

    def case(draw: random.Random, folder: Path) -> Read:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        file = folder / draw.choice(ARTEFACT_FILES)
        if file.name != "config.json" and draw.random() < 0.4:
            odd_tensors(file.with_suffix(".safetensors"), draw)
        else:
            change(file, draw)

        def read() -> None:
            loaded = PurifiedCLIP.from_pretrained(folder, model=micro)
            loaded(images)
            for trigger in loaded.triggers.values():
                trigger(images)

        return read

    fuzz(150, tmp_path, case)


def test_triggers(tmp_path: Path) -> None:
    plain = ("badnet", "blended", "sig", "wanet", "nashville", "ftrojan", "checkerboard", "pieces", "patches")
    made: list[Any] = [TRIGGERS.get(name)() for name in plain]
    made += [PatchTrigger(torch.rand(3, 8, 8)), AdditiveTrigger(torch.rand(3, 8, 8))]
    made += [MaskTrigger(torch.rand(1, 8, 8), torch.rand(3, 8, 8))]
    made += [ReflectionTrigger(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))]
    for number, trigger in enumerate(made):
        trigger.save(tmp_path / f"base{number}")

    def case(draw: random.Random, folder: Path) -> Read:
        shutil.copytree(tmp_path / f"base{draw.randrange(len(made))}", folder, dirs_exist_ok=True)
        change(draw.choice(sorted(folder.glob("trigger.*"))), draw)

        def read() -> None:
            trigger = load_trigger(folder)
            trigger(torch.rand(2, 3, 24, 24))
            trigger.apply_text("a photo")

        return read

    fuzz(150, tmp_path, case)


class _Seen:
    classes = ("a", "b", "c")


def test_search_states(tmp_path: Path) -> None:
    scores = tuple(ClassScore(label, 0.1, None, 0.2) for label in range(3))
    dummy = Dummy(MaskTrigger(torch.rand(1, 8, 8), torch.rand(3, 8, 8)), "mask", 1, 0.5, 0.1)
    result = SearchResult((1,), (1, 2), (dummy,), scores)
    base = tmp_path / "base"
    save_search(result, base)
    names = ["search.json"] * 4 + ["0/trigger.json", "0/trigger.safetensors", MARKER]

    def case(draw: random.Random, folder: Path) -> Read:
        kept = folder / "state"
        shutil.copytree(base, kept)
        change(kept / draw.choice(names), draw)

        def read() -> None:
            made = []

            def source(*arguments: object) -> SearchResult:
                made.append(True)
                return result

            found = kept_search(source, kept)(_Seen(), InversionConfig(), 0)  # type: ignore[arg-type]
            assert all(target in range(3) for target in found.targets)
            assert all(one.target in range(3) for one in found.dummies)
            labels = [score.label for score in found.scores]
            assert set(labels) <= set(range(3))
            assert len(set(labels)) == len(labels)
            if made:
                assert kept_search(source, kept)(_Seen(), InversionConfig(), 0).scores == scores  # type: ignore[arg-type]
                assert len(made) == 1, "a state that was unusable is replaced"

        return read

    fuzz(80, tmp_path, case)


def test_training_states(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = build_adamw(module, lr=0.1, weight_decay=0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    file = tmp_path / "base.pt"
    device = torch.device("cpu")
    state = TrainingState(module, optimizer, file, device=device)
    state.step = 5
    state.save()
    content = torch.load(file, weights_only=True)

    def case(draw: random.Random, folder: Path) -> Read:
        own = folder / "training.pt"
        if draw.random() < 0.5:
            own.write_bytes(mutate_bytes(file.read_bytes(), draw))
        else:
            torch.save(mutate_tree(content, draw), own)

        def read() -> None:
            fresh = torch.nn.Linear(3, 2)
            before = {name: value.clone() for name, value in fresh.state_dict().items()}
            adam = build_adamw(fresh, lr=0.1, weight_decay=0.1)
            step = TrainingState(fresh, adam, own, device=device).load(steps=10)
            assert 0 <= step <= 10
            if step == 0:
                assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
            fresh(torch.ones(1, 3)).sum().backward()
            adam.step()

        return read

    fuzz(80, tmp_path, case)


ATTACKS = ("badnet", "blended", "wanet", "badclip", "trojvqa")


def test_settings(tmp_path: Path) -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    grid = yaml.safe_load((recipes / "grid_120.yaml").read_text())
    values = {name: make_attack(name).config.model_dump(mode="json") for name in ATTACKS}

    def case(draw: random.Random, folder: Path) -> Read:
        kind = draw.choice(["cbpt", "grid", *ATTACKS])
        base = CBPTConfig().model_dump(mode="json") if kind == "cbpt" else values.get(kind, grid)
        file = folder / "x.yaml"
        if draw.random() < 0.6:
            tree = mutate_tree(base, draw)
            data = (
                json.dumps(tree).encode() if draw.random() < 0.5 else yaml.safe_dump(tree).encode("utf-8", "replace")
            )
        else:
            data = draw.choice(ODD_YAML) if draw.random() < 0.6 else mutate_bytes(yaml.safe_dump(base).encode(), draw)
        file.write_bytes(data)

        def read() -> None:
            if kind == "cbpt":
                purify_settings(file, seed=draw.choice([None, 3])).to_yaml()
            elif kind == "grid":
                GridConfig.build(read_yaml(file)).to_yaml()
            else:
                make_attack(kind, file, steps=draw.choice([None, 3])).config.to_yaml()

        return read

    fuzz(250, tmp_path, case)


def test_lists_of_images(tmp_path: Path) -> None:
    rows = [["image", "label"], *([f"{i}.png", "ab"[i % 2]] for i in range(4))]
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(picture())

    def case(draw: random.Random, folder: Path) -> Read:
        text = io.StringIO()
        head = draw.choice(["label", "caption"])
        csv.writer(text).writerows([["image", head], *mutate_lines(rows[1:], draw)])
        data = text.getvalue().encode("utf-8", "replace")
        file = tmp_path / f"list{folder.name}.csv"
        file.write_bytes(data if draw.random() < 0.5 else mutate_bytes(data, draw))
        if draw.random() < 0.5:
            return lambda: load_images(file).tensor(8)
        return lambda: load_captions(str(file)).source.read(0)

    fuzz(120, tmp_path, case)


def test_class_files_and_templates(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("cat", "dog", "sea_horse"):
        (photos / name).mkdir(parents=True)
        (photos / name / "0.png").write_bytes(picture())
    lines = ["# classes", "cat", "dog = hot dog", "sea_horse = {}", "a photo of a {}."]

    def case(draw: random.Random, folder: Path) -> Read:
        own = [line for line in lines if draw.random() < 0.9]
        if draw.random() < 0.6:
            own.insert(draw.randrange(len(own) + 1), draw.choice(ODD_LINES))
        data = "\n".join(own).encode()
        file = folder / "x.txt"
        file.write_bytes(data if draw.random() < 0.4 else mutate_bytes(data, draw))
        if draw.random() < 0.3:
            return lambda: load_templates(file)
        if draw.random() < 0.5:
            return lambda: read_classes(file)
        return lambda: load_images(photos, classes=file)

    fuzz(150, tmp_path, case)


def test_images(tmp_path: Path) -> None:
    bases = [picture(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")]

    def case(draw: random.Random, folder: Path) -> Read:
        data = mutate_bytes(draw.choice(bases), draw)
        return lambda: decode_image(data, "x.png")

    fuzz(150, tmp_path, case)


def test_shards(tmp_path: Path) -> None:
    members = [("0.jpg", picture("JPEG")), ("0.txt", b"a cat"), ("1.png", picture()), ("1.json", b'{"caption": "a"}')]

    def case(draw: random.Random, folder: Path) -> Read:
        data = tar(members, draw)
        file = folder / "x.tar"
        file.write_bytes(data if draw.random() < 0.4 else mutate_bytes(data, draw))

        def read() -> None:
            found = load_captions(str(file))
            for index in range(len(found)):
                found.source.read(index)

        return read

    fuzz(120, tmp_path, case)


def test_archives_of_the_problem(tmp_path: Path) -> None:
    archives = problem_archives()

    def case(draw: random.Random, folder: Path) -> Read:
        broken = draw.choice(list(archives))
        for name, members in archives.items():
            data = tar(members, draw if name == broken else None)
            if name == broken and draw.random() < 0.4:
                data = mutate_bytes(data, draw)
            (folder / f"{name}.tar").write_bytes(data)

        def read() -> None:
            try:
                prepare_problem(folder, folder / "out")
            except ClipAntidoteError:
                assert sorted(p.name for p in folder.iterdir()) == sorted(f"{name}.tar" for name in archives)
                raise
            assert all(not path.is_symlink() for path in (folder / "out").rglob("*"))

        return read

    fuzz(120, tmp_path, case)


def test_records_of_a_benchmark(tmp_path: Path) -> None:
    runs = [json.loads(line) for line in (RECORDS / "runs.jsonl").read_text(encoding="utf-8").splitlines()[:3]]
    suspects = json.loads((RECORDS / "suspects.json").read_text(encoding="utf-8"))
    suspects = dict(list(suspects.items())[:3])

    def case(draw: random.Random, folder: Path) -> Read:
        lines = [json.dumps(run).encode() for run in runs]
        chosen = draw.randrange(len(lines))
        lines[chosen] = mutate_json(runs[chosen], draw).replace(b"\n", b" ")
        records = json.dumps(suspects).encode()
        if draw.random() < 0.4:
            lines[chosen] = json.dumps(runs[chosen]).encode()
            records = mutate_json(suspects, draw)
        (folder / "runs.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        paged = draw.random() < 0.2
        (folder / "suspects.json").write_bytes(records)

        def read() -> None:
            found = read_runs(folder)
            for table in (summary_table, results_table, curve_table, costs_table, runs_csv):
                table(found)
            if paged and found:  # these draw thousands of samples
                leaderboard(found)
                compare([Pair("all", run, run) for run in found])
            zoo_table(read_suspects(folder))

        return read

    fuzz(120, tmp_path, case)


def test_records_of_earlier_results(tmp_path: Path) -> None:
    record = {"run": "key", "implant_check": "passed", "clean": {"ca": 0.5}}

    def case(draw: random.Random, folder: Path) -> Read:
        with result_folder(folder / "out", KIND) as out:
            (out / "report.json").write_text(json.dumps(record))
            (out / "config.json").write_text("{}")
        change(folder / "out" / draw.choice([MARKER, "report.json"]), draw)

        def read() -> None:
            finished_record(folder / "out" / "report.json", "key")
            check_output(folder / "out", KIND)

        return read

    fuzz(100, tmp_path, case)
