"""Odd settings, states and archives, and places that take no more: one sentence, and what was there is there."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clip_antidote.attacks.trigger_making import _kept_trigger
from clip_antidote.config import Config, read_yaml
from clip_antidote.data.classes import read_classes
from clip_antidote.data.folders import load_images
from clip_antidote.data.problem import prepare_problem
from clip_antidote.detection.scores import ClassScore
from clip_antidote.detection.search import SearchResult
from clip_antidote.detection.state import kept_search, save_search
from clip_antidote.errors import ClipAntidoteError, DataError, ModelError, UnsupportedError, UsageError
from clip_antidote.files import atomic_path, write_json
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.jobs.purify import purify_settings
from clip_antidote.models.build import build_open_clip
from clip_antidote.models.config_check import rough_parameters
from clip_antidote.models.loading import load_model
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.models.preprocess import check_preprocess
from clip_antidote.models.tokenizers import tokenizer_factory
from clip_antidote.outputs import result_folder
from clip_antidote.prompts.templates import load_templates
from clip_antidote.training.optim import build_adamw
from clip_antidote.training.state import TrainingState
from clip_antidote.triggers.mask import MaskTrigger
from conftest import SMALL, Cli

ODD: list[tuple[str, str, Any, type[ClipAntidoteError], str]] = [
    ("", "embed_dim", 0, ModelError, "embed_dim 0; it must be from 1"),
    ("", "embed_dim", "16", ModelError, "embed_dim '16'"),
    ("", "embed_dim", True, ModelError, "embed_dim True"),
    ("", "embed_dim", None, ModelError, "must be a whole number"),
    ("", "cast_dtype", "x", UnsupportedError, "cast_dtype"),
    ("", "quick_gelu", "no", ModelError, "must be true or false"),
    ("", "init_logit_scale", 1e9, ModelError, "init_logit_scale"),
    ("", "surprise", 1, ModelError, "surprise"),
    ("vision_cfg", "width", 10**9, ModelError, "vision_cfg.width 1000000000; it must be from 1 to 16384"),
    ("vision_cfg", "width", -32, ModelError, "vision_cfg.width -32"),
    ("vision_cfg", "width", [32, 32], ModelError, r"vision_cfg.width \[32, 32\]"),
    ("vision_cfg", "width", 33, ModelError, "a vision width of 33 that head_width 16 does not divide"),
    ("vision_cfg", "head_width", 64, ModelError, "a vision width of 32 that head_width 64"),
    ("vision_cfg", "layers", 10**6, ModelError, "from 1 to 512, or four for a ResNet"),
    ("vision_cfg", "layers", [1, 2], ModelError, "four for a ResNet"),
    ("vision_cfg", "layers", [1], ModelError, "a ResNet has four"),
    ("vision_cfg", "image_size", 8, ModelError, "under its patch of 16"),
    ("vision_cfg", "image_size", [32, "x"], ModelError, "image_size"),
    ("vision_cfg", "image_size", [], ModelError, "image_size"),
    ("vision_cfg", "mlp_ratio", float("nan"), ModelError, "mlp_ratio nan"),
    ("vision_cfg", "output_tokens", True, UnsupportedError, "output_tokens"),
    ("vision_cfg", "pool_type", "none", UnsupportedError, "pool_type"),
    ("vision_cfg", "norm_kwargs", {"eps": "x"}, UnsupportedError, "norm_kwargs"),
    ("vision_cfg", "timm_model_name", "no_such_model", ModelError, "does not describe an open_clip model"),
    ("text_cfg", "heads", 3, ModelError, "its 3 heads do not divide"),
    ("text_cfg", "heads", 0, ModelError, "text_cfg.heads 0"),
    ("text_cfg", "context_length", 2, ModelError, "holds no class name"),
    ("text_cfg", "vocab_size", 10**12, ModelError, "text_cfg.vocab_size"),
    ("text_cfg", "layers", 2.5, ModelError, "text_cfg.layers 2.5"),
    ("text_cfg", "act_kwargs", {"inplace": True}, UnsupportedError, "act_kwargs"),
    ("text_cfg", "pool_type", "[/x]", UnsupportedError, r"\[/x\]"),
]


@pytest.mark.parametrize(("part", "name", "value", "kind", "said"), ODD, ids=lambda v: str(v)[:30])
def test_odd_configurations_are_told(
    part: str, name: str, value: Any, kind: type[ClipAntidoteError], said: str
) -> None:
    config = copy.deepcopy(SMALL)
    (config[part] if part else config)[name] = value
    with pytest.raises(kind, match=said) as caught:
        build_open_clip(config)
    assert str(caught.value).isprintable()


def test_a_tower_whose_features_do_not_fit_their_projection_is_told() -> None:
    """open_clip builds it, and it fails at the first image."""
    config = copy.deepcopy(SMALL)
    config["vision_cfg"] = {
        "timm_model_name": "fasternet_t0",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 64,
    }
    with pytest.raises(ModelError, match=r"the image tower fasternet_t0 cannot be used .* timm_pool or timm_proj"):
        build_open_clip(config)


def test_a_configuration_far_larger_than_its_weights_takes_no_memory(model_folder: str, tmp_path: Path) -> None:
    file = tmp_path / "small" / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"] |= {"width": 8192, "heads": 8, "layers": 48}
    file.write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"holds \d+ numbers, .* about 4e\+10|parameters; correct its sizes"):
        load_model(model_folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10


def test_parameters_are_counted_about_right(small_model: OpenCLIPEncoder) -> None:
    count = sum(parameter.numel() for parameter in small_model.model.parameters())
    assert rough_parameters(SMALL) == pytest.approx(count, rel=0.05)


@pytest.mark.parametrize("name", ["evil/repo", "../elsewhere", "/etc", "https://example.com/x", "a/b/c"])
def test_a_folder_fetches_no_tokenizer_and_takes_none_from_elsewhere(
    name: str, model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError("tests have no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    file = Path(model_folder.partition(":")[2]) / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = name
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="put its files"):
        load_model(model_folder).encode_texts(["a cat"])
    assert not asked


@pytest.mark.parametrize("preprocess", [{"mean": ["a", "b", "c"]}, {"std": [1.0]}, {"resize_mode": "longest"}])
def test_a_training_from_scratch_looks_at_the_normalization_too(
    preprocess: dict[str, Any], tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": preprocess}))
    ran = cli("train", "--architecture", "c.json", "--data", "problem", "--out", "out")
    assert ran.status in (2, 3)
    assert ran.err.count("error:") == 1
    assert next(iter(preprocess)).replace("_", " ") in ran.err


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ({"tokenizer_kwargs": {"clean": "lowest"}}, UnsupportedError, "option 'clean' to 'lowest'"),
        ({"tokenizer_kwargs": {"clean": ["lower"]}}, UnsupportedError, "option 'clean'"),
        ({"tokenizer_kwargs": {"reduction_mask": "syntax"}}, UnsupportedError, "reduction_mask"),
        ({"tokenizer_kwargs": {"vocab": "x"}}, UnsupportedError, "option 'vocab'"),
        ({"tokenizer_kwargs": [1]}, ModelError, "must be a mapping"),
        ({"hf_tokenizer_name": 3}, ModelError, "must be a name"),
        ({"vocab_size": 100}, ModelError, "a vocabulary of 100"),
    ],
)
def test_odd_tokenizers_are_told(text: dict[str, Any], kind: type[ClipAntidoteError], said: str) -> None:
    with pytest.raises(kind, match=said):
        tokenizer_factory({"text_cfg": text})


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", [10**400, [10**400] * 3, 1e308, [True, 1, 1], "0.5", [0.5, 0.5], [[1], 2, 3], {}])
def test_odd_normalizations_are_told(name: str, value: Any) -> None:
    with pytest.raises(ModelError, match="here"):
        check_preprocess({"mean": [0.5] * 3, "std": [0.5] * 3, name: value}, "here")
    with pytest.raises(ModelError, match="which no image has"):
        check_preprocess({"mean": [0.5] * 3, "std": [1e-30] * 3}, "here")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join(['*' + chr(ord(c) - 1)] * 9)}]\n" for c in "bcdefgh"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 10_000, "nested too deeply"),
        (b"a: " + b"[" * 200 + b"]" * 200, "nests them too deeply"),
        (b"seed: 2001-01-01", "seed"),
        (b"seed: 2001-99-99", "not valid YAML"),
        (b"2001-01-01: 1", "the name of a setting must be a text"),
        (b"3: 4", "the name of a setting must be a text, not 3"),
        (b"inversion: {3: 4}", "the name of a setting must be a text"),
        (b"seed: \0", "not valid YAML"),
        (b"seed: \xff", "cannot read the configuration"),
        (b"seed: 0x" + b"f" * 40, "at most 63 bits"),
        (b"seed: " + b"9" * 5000, "not valid YAML"),
        (b"seed: !!python/object/apply:os.system [id]", "not valid YAML"),
        (b"a: &a\n  b: *a", "nests them too deeply"),
        (BOMB.encode(), "too many settings"),
        (b"inversion: 5", "inversion"),
        (b"pool: .inf", "pool"),
        (b"[/x]: 3", "not valid YAML"),
        (b"'[/x]': 3", r"\[/x\]"),
    ],
    ids=lambda v: v.decode("latin-1")[:20] if isinstance(v, bytes) else "",
)
def test_odd_settings_are_told(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(UsageError, match=said) as caught:
        purify_settings(tmp_path / "x.yaml")
    assert str(caught.value).isprintable()


def test_settings_are_finite_and_messages_of_readable_length(tmp_path: Path) -> None:
    class Own(Config):
        rate: float = 1.0

    with pytest.raises(UsageError, match="rate"):
        Own.build({"rate": float("inf")})
    (tmp_path / "x.yaml").write_text(f"{'n' * 100_000}: 1")
    with pytest.raises(UsageError) as caught:
        Own.build(read_yaml(tmp_path / "x.yaml"))
    assert len(str(caught.value)) < 1100
    assert str(DataError("a\nb\x1b")) == "a b\ufffd"


@pytest.mark.parametrize("line", [b"x" * 1_000_000, b"a\0b", b"a\x1b[2J", b"a = \x07"])
def test_odd_class_names_are_told(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"cat\n" + line + b"\n")
    with pytest.raises(DataError, match="is no class name"):
        read_classes(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_bytes(b"cat\n\xff\xfe\n")
    with pytest.raises(DataError, match="cannot read the class file"):
        read_classes(tmp_path / "classes.txt")
    (tmp_path / "templates.txt").write_bytes(b"a {}\n" + b"{} " * 1000)
    with pytest.raises(DataError, match="more than 1000 letters"):
        load_templates(tmp_path / "templates.txt")


def test_folders_whose_names_are_no_text_are_told(photos: Path) -> None:
    (photos / "cat").rename(Path(os.fsdecode(os.fsencode(photos) + b"/c\xfft")))
    with pytest.raises(DataError, match="is no class name"):
        load_images(photos)


# States of unfinished work


def trained(tmp_path: Path, steps: int = 5) -> tuple[torch.nn.Linear, TrainingState]:
    module = torch.nn.Linear(3, 2)
    optimizer = build_adamw(module, lr=0.1, weight_decay=0.1)
    return module, TrainingState(module, optimizer, tmp_path / "training.pt", device=torch.device("cpu"))


def kept_state(tmp_path: Path) -> dict[str, Any]:
    module, state = trained(tmp_path)
    module(torch.ones(1, 3)).sum().backward()
    state.optimizer.step()
    state.step = 5
    state.save()
    content: dict[str, Any] = torch.load(tmp_path / "training.pt", weights_only=True)
    return content


def test_a_state_that_fits_is_gone_on_from_without_a_word(tmp_path: Path) -> None:
    content = kept_state(tmp_path)
    module, state = trained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert state.load(steps=5) == 5
    assert torch.equal(module.weight, content["model"]["weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": 6}, "its step is none of this training"),
        ({"step": -1}, "its step"),
        ({"step": 1.0}, "its step"),
        ({"step": True}, "its step"),
        ({"model": {"weight": torch.ones(9, 9)}}, "another model"),
        ({"model": {"weight": torch.ones(2, 3).double(), "bias": torch.ones(2)}}, "another model"),
        ({"model": 3}, "another model"),
        ({"optimizer": {"param_groups": [], "state": {}}}, "other settings"),
        ({"optimizer": None}, "damaged"),
        ({"extra": 1}, "no state of a training"),
        (None, "no state of a training"),
        (b"", "damaged"),
        (b"PK\x03\x04 cut off", "damaged"),
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_said_and_left(change: Any, said: str, tmp_path: Path) -> None:
    content = kept_state(tmp_path)
    if isinstance(change, bytes):
        (tmp_path / "training.pt").write_bytes(change)
    else:
        torch.save(None if change is None else {**content, **change}, tmp_path / "training.pt")
    module, state = trained(tmp_path)
    before = copy.deepcopy(module.state_dict())
    with pytest.warns(UserWarning, match=f"{said}.*the training starts again"):
        assert state.load(steps=5) == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    state.step = 2
    state.save()
    assert torch.load(tmp_path / "training.pt", weights_only=True)["step"] == 2, "and is replaced by a good one"


@pytest.mark.parametrize(
    "moments", [{"exp_avg": torch.zeros(7)}, {"exp_avg": torch.zeros(())}, {"more": torch.ones(2)}]
)
def test_moments_of_another_model_are_not_taken(moments: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = kept_state(tmp_path)
    content["optimizer"]["state"][0] |= moments
    torch.save(content, tmp_path / "training.pt")
    with pytest.warns(UserWarning, match="its optimizer is that of another model"):
        assert trained(tmp_path)[1].load(steps=5) == 0


class Seen:
    classes = ("a", "b", "c")


RESULT = SearchResult(
    (1,),
    (1, 2),
    (Dummy(MaskTrigger(torch.rand(1, 8, 8), torch.rand(3, 8, 8)), "mask", 1, 0.5, 0.1),),
    tuple(ClassScore(label, 0.1, None, 0.2) for label in range(3)),
)


def spoil(folder: Path, what: str) -> None:
    file = folder / "search.json"
    record = json.loads(file.read_text())
    if what == "cut off":
        file.write_text(file.read_text()[:40])
    elif what == "a trigger is missing":
        (folder / "0" / "trigger.json").unlink()
    elif what == "foreign":
        (folder / "mine.txt").write_text("x")
        file.write_text("[]")
    elif what == "older":
        del record["scores"]
        file.write_text(json.dumps(record))
    else:
        file.write_text(json.dumps({**record, "targets": [7]}))


@pytest.mark.parametrize("what", ["cut off", "a trigger is missing", "foreign", "older", "other classes"])
def test_a_kept_search_that_cannot_be_used_is_said_and_made_again(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    save_search(RESULT, folder)
    spoil(folder, what)
    calls = []

    def source(*arguments: object) -> SearchResult:
        calls.append(arguments)
        return RESULT

    take = kept_search(source, folder)
    with pytest.warns(UserWarning, match="the kept search cannot be used .*; it starts again"):
        assert take(Seen(), InversionConfig(), 0) is RESULT  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert take(Seen(), InversionConfig(), 0).scores == RESULT.scores  # type: ignore[arg-type]
    assert len(calls) == 1


def test_a_kept_search_with_the_evidence_of_a_shortlist_is_used(tmp_path: Path) -> None:
    class Many:
        classes = tuple(f"class {number}" for number in range(120))

    def source(*arguments: object) -> SearchResult:
        raise AssertionError("it is not looked for again")

    save_search(RESULT, tmp_path / "state")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = kept_search(source, tmp_path / "state")(Many(), InversionConfig(), 0)  # type: ignore[arg-type]
    assert found.scores == RESULT.scores


def test_a_kept_trigger_that_cannot_be_used_takes_its_training_along(tmp_path: Path) -> None:
    RESULT.dummies[0].trigger.save(tmp_path / "trigger")
    (tmp_path / "training.pt").write_bytes(b"state")
    assert _kept_trigger(tmp_path) is not None
    (tmp_path / "trigger" / "trigger.json").write_text("{")
    with pytest.warns(UserWarning, match="the kept trigger cannot be used .*; the attack starts again"):
        assert _kept_trigger(tmp_path) is None
    assert not tmp_path.exists()


def test_the_command_says_that_it_starts_again(
    photos: Path, model_folder: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    fast = "inversion: {survey: {steps: 1}, final_steps: 1}\ntuning: {steps: 1}\nprecision: fp32\npool: 4\n"
    (tmp_path / "fast.yaml").write_text(fast)
    arguments = ["purify", model_folder, "--data", photos, "--shots", 2, "--config", "fast.yaml"]
    with monkeypatch.context() as patch:
        patch.setattr("clip_antidote.purification.pipeline.tune_prompts", interrupt)
        assert cli(*arguments).status == 130
    state = next(tmp_path.glob(".purified.state-*"))
    (state / "search.json").write_text("{")
    ran = cli(*arguments)
    assert ran.status == 0, ran.err
    assert "note: the kept search cannot be used" in ran.err


# Archives


def archive(folder: Path, name: str, members: dict[str, bytes | tarfile.TarInfo]) -> None:
    with tarfile.open(folder / f"{name}.tar", "w:") as file:
        for path, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                file.addfile(data)
            else:
                info = tarfile.TarInfo(path)
                info.size = len(data)
                temporary = folder / "member"
                temporary.write_bytes(data)
                with temporary.open("rb") as source:
                    file.addfile(info, source)
                temporary.unlink()


GOOD: dict[str, dict[str, bytes | tarfile.TarInfo]] = {
    "imagenette": {"imagenette/train/a/1.jpg": b"x", "imagenette/val/a/2.jpg": b"x"},
    "clothing": {"clothing/train/hat/1.jpg": b"x"},
    "caltech101": {"caltech101/cup/1.jpg": b"x"},
    "flickr8k": {
        "flickr8k/train.txt": b"1.jpg\n",
        "flickr8k/dev.txt": b"2.jpg\n",
        "flickr8k/captions.csv": b"image,caption\n1.jpg,a dog\n2.jpg,a cat\n",
        "flickr8k/images/1.jpg": b"x",
        "flickr8k/images/2.jpg": b"x",
    },
}


def odd_member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("name", "members", "said"),
    [
        ("clothing", {"/etc/clothing/hat/1.jpg": b"x"}, "outside of itself"),
        ("clothing", {"clothing/../../../hat/1.jpg": b"x"}, "outside of itself"),
        ("clothing", {"clothing/../hat/1.jpg": b"x"}, "outside of itself"),
        ("clothing", {"clothing/evil/hat/1.jpg": b"x"}, "a split 'evil'"),
        ("clothing", {}, "no images where they are expected"),
        ("clothing", {"x": odd_member("clothing/train/hat/1.jpg", tarfile.SYMTYPE, "/etc/passwd")}, "no images"),
        ("clothing", {"x": odd_member("clothing/train/hat/1.jpg", tarfile.CHRTYPE)}, "no images"),
        ("clothing", {"x": odd_member("clothing/train/hat/1.jpg", tarfile.FIFOTYPE)}, "no images"),
        ("clothing", {"x": odd_member("clothing/train/hat/1.jpg", tarfile.LNKTYPE, "/etc/passwd")}, "no images"),
        ("flickr8k", {"flickr8k/train.txt": b"1.jpg"}, "KeyError"),
        ("flickr8k", {**GOOD["flickr8k"], "flickr8k/captions.csv": b""}, "cannot read the archive|lacks"),
        ("flickr8k", {**GOOD["flickr8k"], "flickr8k/captions.csv": b"\xff"}, "UnicodeDecodeError"),
        ("flickr8k", {**GOOD["flickr8k"], "flickr8k/dev.txt": b"9.jpg"}, "lacks 9.jpg"),
    ],
)
def test_odd_archives_are_told(
    name: str, members: dict[str, bytes | tarfile.TarInfo], said: str, tmp_path: Path
) -> None:
    source = tmp_path / "from"
    source.mkdir()
    for key, content in {**GOOD, name: members}.items():
        archive(source, key, content)
    with pytest.raises(DataError, match=said):
        prepare_problem(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from"]


@pytest.mark.parametrize("cut", [0, 100, 700, 1100])
def test_archives_that_are_cut_off_are_told(cut: int, tmp_path: Path) -> None:
    source = tmp_path / "from"
    source.mkdir()
    for key, content in GOOD.items():
        archive(source, key, content)
    whole = prepare_problem(source, tmp_path / "out")
    assert whole["captions"] == 2
    file = source / "clothing.tar"
    file.write_bytes(file.read_bytes()[:cut] if cut < 1000 else b"\x1f\x8b" + file.read_bytes())
    with pytest.raises(DataError, match=r"clothing\.tar"):
        prepare_problem(source, tmp_path / "again")
    assert not (tmp_path / "again").exists()


# Places that take no more


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process cannot become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_text(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("x" * 100_000)


def write_torch(path: Path) -> None:
    with atomic_path(path) as temporary:
        torch.save({"a": torch.zeros(100_000)}, temporary)


def write_safetensors(path: Path) -> None:
    with atomic_path(path) as temporary:
        save_file({"a": torch.zeros(100_000)}, temporary)


@pytest.mark.parametrize("write", [write_text, write_torch, write_safetensors])
def test_a_full_disk_is_told_and_the_old_file_stays(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    with full_disk(4096), pytest.raises(DataError, match=rf"cannot write {path}"):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.ENAMETOOLONG])
def test_every_way_in_which_writing_fails_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with result_folder(tmp_path / "out", "kind") as folder:
        (folder / "a").write_text("old")

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / ".out.tmp"))

    def again() -> None:
        with result_folder(tmp_path / "out", "kind") as folder:
            (folder / "a").write_text("new")
            monkeypatch.setattr("os.replace", fail)

    with pytest.raises(DataError, match=os.strerror(number)):
        again()
    monkeypatch.undo()
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_earlier_result_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with result_folder(tmp_path / "out", "kind") as folder:
        (folder / "a").write_text("old")
    replace, calls = os.replace, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error", str(source))
        replace(source, target)

    def again() -> None:
        with result_folder(tmp_path / "out", "kind") as folder:
            (folder / "a").write_text("new")
            monkeypatch.setattr("os.replace", second_fails)

    with pytest.raises(DataError, match="Input/output error"):
        again()
    monkeypatch.undo()
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_is_read_meanwhile_is_named_itself(tmp_path: Path) -> None:
    def read() -> None:
        with atomic_path(tmp_path / "out" / "x"):
            (tmp_path / "missing" / "file").read_text()

    with pytest.raises(DataError, match=r"cannot read or write .*missing/file: No such file"):
        read()
    with pytest.raises(DataError, match="File name too long"):
        write_json(tmp_path / ("n" * 300), {})


def test_a_command_on_a_full_disk_ends_with_a_sentence(
    photos: Path, model_folder: str, tmp_path: Path, cli: Cli
) -> None:
    fast = "implant_asr: 0.0\nimplant_ca_drop: 1.0\ntraining: {batch_size: 4, steps: 1}\n"
    (tmp_path / "c.yaml").write_text(fast)
    with full_disk(100_000):
        ran = cli("attack", model_folder, "--data", photos, "--target", "dog", "--config", "c.yaml")
    assert ran.status == 2
    assert ran.err.count("error:") == 1
    assert "cannot write" in ran.err
    assert not (tmp_path / "poisoned").exists()
    assert not list(tmp_path.glob(".*.tmp"))
