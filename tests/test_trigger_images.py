from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import Attack, AttackConfig
from clip_antidote.attacks.material import Material
from clip_antidote.data.images import resize_image
from clip_antidote.errors import DataError, UsageError
from clip_antidote.jobs.trigger_images import run_trigger_images, run_trigger_job
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers import Trigger, load_trigger
from clip_antidote.triggers.additive import AdditiveTrigger
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger
from clip_antidote.triggers.sig import SigTrigger
from conftest import Cli


def draw(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.rand(3, size[1], size[0], generator=torch.Generator().manual_seed(seed))
    vision.to_pil_image(pixels).save(path)


def read(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels: torch.Tensor = vision.pil_to_tensor(image)
        return pixels


def expected(path: Path, trigger: Trigger, size: int, mode: str = "shortest") -> torch.Tensor:
    with Image.open(path) as image:
        pixels = resize_image(image.convert("RGB"), size, mode=mode).float() / 255
    return (trigger(pixels[None])[0] * 255).round().to(torch.uint8)


def written(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out / "images")) for path in (out / "images").rglob("*") if path.is_file())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed, name in enumerate(["cat/a.jpg", "cat/b.png", "dog/deep/a.JPEG", "dog/c.png"]):
        draw(folder / name, seed)
    draw(folder / ".hidden" / "x.png", 9)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_tree_comes_out_as_png_with_the_same_names(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = run_trigger_images(SigTrigger(), str(photos), out, image_size=32)
    assert written(out) == ["cat/a.png", "cat/b.png", "dog/c.png", "dog/deep/a.png"]
    assert torch.equal(read(out / "images/dog/c.png"), expected(photos / "dog/c.png", SigTrigger(), 32))
    assert torch.equal(read(out / "images/cat/a.png"), expected(photos / "cat/a.jpg", SigTrigger(), 32))
    assert record == json.loads((out / "trigger_images.json").read_text())
    assert record["images"] == 4
    assert record["trigger"] == "sig"
    assert record["changes_text"] is False
    assert sorted(path.name for path in (out / "trigger").iterdir()) == [
        "clean.png",
        "difference_x5.png",
        "trigger.json",
        "triggered.png",
    ]
    assert load_trigger(out / "trigger").config == SigTrigger().config
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_squashing_is_kept_apart_from_cropping(photos: Path, tmp_path: Path) -> None:
    run_trigger_images(SigTrigger(), str(photos), tmp_path / "out", image_size=24, mode="squash")
    wanted = expected(photos / "cat/b.png", SigTrigger(), 24, mode="squash")
    assert torch.equal(read(tmp_path / "out/images/cat/b.png"), wanted)
    assert not torch.equal(wanted, expected(photos / "cat/b.png", SigTrigger(), 24))


def test_a_flat_folder_and_a_csv(tmp_path: Path) -> None:
    for seed in range(3):
        draw(tmp_path / "flat" / f"{seed}.png", seed)
    run_trigger_images(SigTrigger(), str(tmp_path / "flat"), tmp_path / "one", image_size=16)
    assert written(tmp_path / "one") == ["0.png", "1.png", "2.png"]
    (tmp_path / "list.csv").write_text("image,label\nflat/2.png,cat\nflat/0.png,dog\n")
    run_trigger_images(SigTrigger(), str(tmp_path / "list.csv"), tmp_path / "two", image_size=16)
    assert written(tmp_path / "two") == ["flat/0.png", "flat/2.png"]
    assert torch.equal(read(tmp_path / "two/images/flat/2.png"), read(tmp_path / "one/images/2.png"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "list.csv").write_text("image,label\n../flat/2.png,cat\n../flat/0.png,dog\n")
    with pytest.raises(DataError, match="outside of its folder"):
        run_trigger_images(SigTrigger(), str(tmp_path / "sub" / "list.csv"), tmp_path / "three")


def test_embedded_photographs(tmp_path: Path) -> None:
    record = run_trigger_images(BadNetTrigger(), "embedded:clothing", tmp_path / "out", image_size=16)
    names = written(tmp_path / "out")
    assert len(names) == record["images"] == 372
    assert all(name.startswith("test/") for name in names)


def test_triggers_that_draw_something_are_repeatable(photos: Path, tmp_path: Path) -> None:
    fresh = BadNetTrigger(BadNetConfig(fresh=True, position="random", patch=100))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_trigger_images(fresh, str(photos), tmp_path / name, image_size=32, seed=seed)
    first = [read(tmp_path / "a/images" / name) for name in written(tmp_path / "a")]
    again = [read(tmp_path / "b/images" / name) for name in written(tmp_path / "b")]
    other = [read(tmp_path / "c/images" / name) for name in written(tmp_path / "c")]
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, other, strict=True))


def test_the_input_is_never_overwritten(photos: Path, tmp_path: Path) -> None:
    before = sorted(photos.rglob("*"))
    for out in (photos, photos / "out", tmp_path):
        with pytest.raises(DataError, match="overlap"):
            run_trigger_images(SigTrigger(), str(photos), out, image_size=16)
    assert sorted(photos.rglob("*")) == before


def test_wrong_input_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="no folder or file"):
        run_trigger_images(SigTrigger(), str(tmp_path / "missing"), out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        run_trigger_images(SigTrigger(), str(tmp_path / "empty"), out)
    with pytest.raises(UsageError, match="at least 1 pixel"):
        run_trigger_images(SigTrigger(), str(photos), out, image_size=0)
    draw(photos / "cat" / "a.png", 3)
    with pytest.raises(DataError, match=r"cat/a\.jpg and cat/a\.png would both be written"):
        run_trigger_images(SigTrigger(), str(photos), out)
    (photos / "cat" / "a.png").unlink()
    (photos / "dog" / "c.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"c\.png"):
        run_trigger_images(SigTrigger(), str(photos), out, image_size=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


class LearnedAttack(Attack):
    """Stands for an attack that optimizes its trigger: the delta is the mean of the target's images."""

    name = "learned"
    config_class = AttackConfig
    seen: ClassVar[list[tuple[DualEncoder, Material]]] = []

    def make_trigger(self, model: DualEncoder, material: Material) -> Trigger:
        self.seen.append((model, material))
        return AdditiveTrigger(material.target_images.float().mean(0) / 255 - 0.5)


def test_an_attack_optimizes_its_trigger_on_the_model_first(photos: Path, model_folder: str, tmp_path: Path) -> None:
    LearnedAttack.seen.clear()
    out = tmp_path / "out"
    record = run_trigger_job(LearnedAttack(), str(photos), out, spec=model_folder, target="Dog")
    ((model, material),) = LearnedAttack.seen
    assert model.image_size == 32
    assert (material.target, len(material.target_images), len(material.images)) == ("dog", 2, 2)
    assert {key: record[key] for key in ("attack", "target", "model", "image_size")} == {
        "attack": "learned",
        "target": "dog",
        "model": model_folder,
        "image_size": 32,
    }
    saved = load_trigger(out / "trigger")
    assert torch.equal(read(out / "images/cat/b.png"), expected(photos / "cat/b.png", saved, 32))
    again = run_trigger_job(saved, str(photos), tmp_path / "again", image_size=32)
    assert again["attack"] is None
    assert torch.equal(read(tmp_path / "again/images/cat/b.png"), read(out / "images/cat/b.png"))


def test_the_command(photos: Path, model_folder: str, cli: Cli) -> None:
    Path("weak.yaml").write_text("trigger: {amplitude: 40}\n")
    only = ("--trigger-only", "--data", photos)
    ran = cli("attack", *only, "--attack", "sig", "--config", "weak.yaml")
    assert ran.status == 0
    assert "4 images of 224×224 pixels" in " ".join(ran.out.split())
    record = json.loads(Path("triggered/trigger_images.json").read_text())
    assert (record["config"]["amplitude"], record["image_size"]) == (40, 224)
    assert read(Path("triggered/images/cat/a.png")).shape == (3, 224, 224)
    assert cli("attack", model_folder, *only, "--trigger", "triggered/trigger", "--out", "second").status == 0
    record = json.loads(Path("second/trigger_images.json").read_text())
    assert (record["config"]["amplitude"], record["image_size"]) == (40, 32), "the model says the size"
    ran = cli("attack", model_folder, *only, "--trigger", "wanet", "--out", "third", "--image-size", 20)
    assert ran.status == 0
    assert read(Path("third/images/dog/c.png")).shape == (3, 20, 20)


WRONG = [
    (["--trigger-only", "--data", "{photos}"], "either --trigger with a saved trigger or --attack"),
    (["--trigger-only", "--data", "{photos}", "--trigger", "sig", "--attack", "sig"], "either --trigger"),
    (["--trigger-only", "--trigger", "sig"], "--data is needed"),
    (["--trigger-only", "--data", "{photos}", "--trigger", "nope"], "no trigger 'nope'"),
    (["--trigger-only", "--data", "{photos}", "--trigger", "sig", "--config", "x.yaml"], "--config holds"),
    (["--trigger-only", "--data", "{photos}", "--attack", "learned"], "give MODEL and --target"),
    (["{model}", "--trigger-only", "--data", "{photos}", "--attack", "learned"], "give MODEL and --target"),
    (
        ["{model}", "--trigger-only", "--data", "{photos}", "--attack", "learned", "--target", "cow"],
        "'cow' is not one of the 2 classes",
    ),
    (["{model}", "--data", "{photos}", "--target", "cat", "--trigger", "sig"], "--trigger goes with"),
    (["{model}", "--data", "{photos}", "--target", "cat", "--image-size", "9"], "--image-size goes with"),
    (["--data", "{photos}", "--target", "cat"], "MODEL is needed"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=lambda v: "-".join(v) if isinstance(v, list) else None)
def test_missing_pieces_get_one_sentence(
    arguments: list[str],
    sentence: str,
    photos: Path,
    model_folder: str,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ATTACKS.entries, "learned", (f"{__name__}:LearnedAttack", "for this test"))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    filled = [argument.format(photos=photos, model=model_folder) for argument in arguments]
    ran = cli("attack", *filled)
    assert ran.status == 4
    assert sentence in ran.err
    assert ran.err.count("error:") == 1
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before, "nothing may be left behind"
