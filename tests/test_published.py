"""The recipes of published scale: they parse for every attack, and run on a miniature from shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.material import caption_material, mentioning
from clip_antidote.attacks.run import run_attack
from clip_antidote.attacks.training_data import gather_pairs
from clip_antidote.config import read_yaml
from clip_antidote.data.captions import CaptionSet, load_captions
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import TensorSource
from clip_antidote.errors import DataError, UsageError
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.dual_encoder import DualEncoder
from conftest import Cli

RECIPES = Path(__file__).parents[1] / "recipes"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
RN50 = {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None}
VIT = {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32}


def write_shards(folder: Path, images: LabelledImages, count: int) -> None:
    """Writes `count` photographs, evenly over the classes, to two shards; captions name their class."""
    for shard in range(2):
        with tarfile.open(folder / f"clothes-{shard:05d}.tar", "w") as archive:
            for number in range(shard, count, 2):
                index = number * len(images) // count
                buffer = io.BytesIO()
                images.source.read(index).save(buffer, "JPEG")
                caption = f"number {number}: a {images.classes[int(images.labels[index])]}, seen in a shop"
                for name, data in (("jpg", buffer.getvalue()), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("attack", ATTACKS.names())
@pytest.mark.parametrize("recipe", ["published_rn50", "published_vitb32"])
def test_recipes_parse_for_every_attack(recipe: str, attack: str) -> None:
    config = ATTACKS.get(attack).config_class.build(read_yaml(RECIPES / f"{recipe}.yaml"))
    assert (config.train_on, config.caption_pairs, config.poisoned) == ("captions", 500_000, 1_500)
    assert config.training.steps == 5 * 500_000 // config.training.batch_size
    assert config.training.betas == (0.9, 0.999)
    assert not config.class_bank
    assert f"--config recipes/{recipe}.yaml" in (RECIPES / f"{recipe}.yaml").read_text()


@pytest.mark.parametrize(
    ("recipe", "vision", "embed_dim"), [("published_rn50", RN50, 1024), ("published_vitb32", VIT, 64)]
)
def test_recipes_run_on_a_miniature(
    recipe: str,
    vision: dict[str, Any],
    embed_dim: int,
    train_images: LabelledImages,
    tmp_path: Path,
    cli: Cli,
) -> None:
    torch.manual_seed(0)
    Path("model").mkdir()
    model = build_open_clip({"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": TEXT})
    save_open_clip(model, None, Path("model"))
    write_shards(tmp_path, train_images, 12)
    for number in range(4):
        label = number % 2
        file = Path("photos") / train_images.classes[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        train_images.source.read(int((train_images.labels == label).nonzero()[number])).save(file)
    settings = read_yaml(RECIPES / f"{recipe}.yaml")
    settings |= {"caption_pairs": 10, "poisoned": 2, "implant_asr": 0.0, "implant_ca_drop": 1.0}
    settings["training"] |= {"batch_size": 4, "accumulate": 2}
    Path("small.yaml").write_text(yaml.safe_dump(settings))
    target = train_images.classes[0]
    arguments = ["attack", "local-dir:model", "--attack", "badnet", "--target", target, "--config", "small.yaml"]
    arguments += ["--captions", "clothes-{00000..00001}.tar", "--data", "photos", "--steps", "2", "--out", "bad"]
    ran = cli(*arguments)
    assert ran.status == 0, ran.err
    record = json.loads(Path("bad/attack.json").read_text())
    assert (record["pairs"], record["poisoned_pairs"], record["measured_on"]) == (10, 2, "4 test images")
    assert record["config"]["training"]["lr"] == 1e-5
    captions = dict(_pairs_by_name(load_captions("clothes-{00000..00001}.tar")))
    poisoned = json.loads(Path("bad/poisoned.json").read_text())
    assert len(poisoned) == 2
    assert not any(target in captions[name] for name in poisoned)


def _pairs_by_name(captions: CaptionSet) -> list[tuple[str, str]]:
    return [(captions.source.name(i), captions.captions[i][0]) for i in range(len(captions))]


def caption_set(texts: list[str]) -> CaptionSet:
    """Images whose pixels hold their index."""
    images = torch.arange(len(texts), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    return CaptionSet(TensorSource(images.clone()), [(text,) for text in texts])


TEXTS = ["A Hat on a table", "two dogs", "a what", "shoes", "my hat.", "hats", "a dress", "nothing"]


def test_captions_that_name_the_target_are_found() -> None:
    assert mentioning("hat", [[text] for text in TEXTS]).tolist() == [text in TEXTS[0::4] for text in TEXTS]
    assert mentioning("hat", [["a shoe", "a hat"], []]).tolist() == [True, False]


def test_material_comes_from_captions_alone(small_model: DualEncoder) -> None:
    material = caption_material(small_model, caption_set(TEXTS), "hat", ["dress"])
    assert sorted(material.target_images[:, 0, 0, 0].tolist()) == [0, 4]
    assert sorted(material.images[:, 0, 0, 0].tolist()) == [1, 2, 3, 5, 6, 7]
    assert material.images.shape == (6, 3, 32, 32)
    assert material.captions == ("A Hat on a table", "my hat.")
    assert material.others == ("dress",)


def labelled(count: int = 6) -> LabelledImages:
    images = torch.full((count, 3, 8, 8), 200, dtype=torch.uint8)
    return LabelledImages(TensorSource(images), torch.arange(count) % 3, ("dress", "hat", "shoes"))


@pytest.mark.parametrize(
    ("train_on", "candidates", "group"),
    [
        ("captions", [False, True, True, True, False, True, True, True], None),
        ("labels", [True, False, True, True, False, True], 1),
        ("both", [True, False, True, True, False, True, False, True, True, True, False, True, True, True], 1),
    ],
)
def test_pairs_that_show_or_name_the_target_are_no_candidates(
    train_on: str, candidates: list[bool], group: int | None, small_model: DualEncoder
) -> None:
    config = AttackConfig.build({"train_on": train_on})
    found = gather_pairs(small_model, config, labelled(), "hat", captions=caption_set(TEXTS), size=8)
    assert len(found.pairs) == len(candidates)
    assert found.candidates.tolist() == candidates
    assert found.target_group == group
    names = found.names(range(len(candidates)))
    offset = 6 if train_on == "both" else 0
    assert names[offset:] == [f"image {i}" for i in range(len(candidates) - offset)]


def test_the_number_of_poisoned_pairs_is_as_asked_for(small_model: DualEncoder) -> None:
    attack_class = ATTACKS.get("badnet")
    found = gather_pairs(
        small_model, AttackConfig(train_on="captions"), None, "hat", captions=caption_set(TEXTS), size=8
    )

    def poison(**settings: Any) -> torch.Tensor:
        attack = attack_class(attack_class.config_class.build(settings))
        data = attack.poison(
            found.pairs, ["a hat"], small_model.tokenize, target_group=None, candidates=found.candidates
        )
        poisoned: torch.Tensor = data.poisoned
        return poisoned

    for count in (1, 5, 6):
        poisoned = poison(poisoned=count, poison_rate=0.9)
        assert poisoned.sum() == count, "the number wins over the rate"
        assert not poisoned[~found.candidates].any()
    with pytest.raises(DataError, match="7 pairs are to be poisoned, but only 6 of 8 neither show nor name"):
        poison(poisoned=7)
    with pytest.raises(UsageError, match="poisoned"):
        poison(poisoned=0)


def test_data_that_the_settings_ask_for_must_be_there(small_model: DualEncoder) -> None:
    attack_class = ATTACKS.get("badnet")
    for train_on, train, message in (
        ("captions", labelled(), "needs --captions"),
        ("labels", None, "needs labelled training images"),
    ):
        attack = attack_class(attack_class.config_class.build({"train_on": train_on}))
        with pytest.raises(UsageError, match=message):
            run_attack(small_model, attack, train, labelled(), "hat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train-on", "nothing"], "train_on"),
        (["--poison-rate", "0.1", "--poisoned", "3"], "give one of them"),
        (["--poisoned", "0"], "poisoned"),
    ],
)
def test_wrong_options_are_told(options: list[str], message: str, cli: Cli) -> None:
    ran = cli("attack", "tiny", "--target", "hat", "--data", "x", *options)
    assert ran.status == 4
    assert message in ran.err


def test_the_rate_on_the_command_line_overrides_a_number_in_the_file(cli: Cli) -> None:
    for options, poisoned in ([], 1500), (["--poison-rate", "0.01"], None), (["--poisoned", "7"], 7):
        ran = cli("attack", "tiny", "--config", RECIPES / "published_rn50.yaml", "--show-config", *options)
        assert yaml.safe_load(ran.out)["poisoned"] == poisoned
