"""The parts of the defenses by hand, and each defense on small models: what it trains, keeps and gives back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import clip_antidote as ca
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.apt import APT, APTConfig
from clip_antidote.defenses.cleanclip import CleanCLIPConfig
from clip_antidote.defenses.defend import defend, make_defense
from clip_antidote.defenses.ibau import IBAU, IBAUConfig
from clip_antidote.defenses.invertune import ssim, upper_cluster
from clip_antidote.defenses.nad import attention
from clip_antidote.defenses.norm_masks import MaskedNorms, PruningConfig, prune_by_masks
from clip_antidote.defenses.par import push
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, descend
from clip_antidote.errors import ModelError, RefusedError
from clip_antidote.jobs.defended import load_defended
from clip_antidote.models import load_model
from clip_antidote.models.build import build_open_clip
from clip_antidote.models.image_tower import before_projection, drop_units, recorded, scaled_norms, stages
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.models.visual_prompts import PromptedEncoder, token_width
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.purification.classifier import PurifiedCLIP
from conftest import SMALL, Cli, draw_photos

TEXT = SMALL["text_cfg"]
CONVOLUTIONAL = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
    "text_cfg": TEXT,
}
MODIFIED = {
    "embed_dim": 16,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None},
    "text_cfg": TEXT,
}
DEEP_VIT = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "layers": 3}}


@pytest.fixture(scope="module")
def cnn() -> OpenCLIPEncoder:
    torch.manual_seed(0)
    return build_open_clip(CONVOLUTIONAL)


@pytest.fixture(scope="module")
def vit() -> OpenCLIPEncoder:
    torch.manual_seed(0)
    return build_open_clip(DEEP_VIT)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Six images of each of three classes."""
    folder = draw_photos(tmp_path_factory.mktemp("shots") / "photos", classes=("cat", "dog", "cow"), count=6)
    return ca.load_images(str(folder))


def test_push_by_hand() -> None:
    kept = torch.eye(2)
    moved = torch.tensor([[1.0, 0.0], [0.0, -1.0]])  # 0 and 4 apart, 2 in the mean
    assert push(moved, kept, 2.15) == 2
    assert push(moved, kept, 1.9) == 0, "beyond the threshold nothing is pushed"


def test_attention_by_hand() -> None:
    places = torch.tensor([[[[3.0, 0.0]], [[1.0, 2.0]]]])  # two channels, places of 10/2 and 4/2
    wanted = torch.tensor([[5.0, 2.0]]) / math.sqrt(29)
    torch.testing.assert_close(attention(places, 2), wanted)
    tokens = places[0, :, 0].T[None]
    torch.testing.assert_close(attention(tokens, 2), wanted)


def test_ssim_of_flat_images_by_its_formula() -> None:
    first, second = torch.full((1, 3, 9, 9), 0.5), torch.full((1, 3, 9, 9), 0.1)
    assert float(ssim(first, first)) == pytest.approx(1)
    assert float(ssim(first, second)) == pytest.approx((2 * 0.05 + 1e-4) / (0.25 + 0.01 + 1e-4), rel=1e-4)


def test_upper_cluster_by_hand() -> None:
    assert upper_cluster(torch.tensor([0.1, 5.0, 0.2, 4.0, 0.0])).tolist() == [False, True, False, True, False]
    assert upper_cluster(torch.ones(3)).any(), "never none"


def test_the_hypergradient_by_hand() -> None:
    """L = θδ − hδ²/2: dL/dθ = δ + η·v with v = (θ − hδ)·Σ_{i≤k} (1 − ηh)^i."""
    theta = torch.tensor(2.0, requires_grad=True)
    h, eta, delta, steps = 3.0, 0.1, torch.tensor([0.5]), 4
    defense = IBAU(IBAUConfig(fixed_point=steps, contraction=eta))

    def loss(images: torch.Tensor, labels: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        return (theta * moved - h * moved.square() / 2).sum()

    value = defense._with_hypergradient(loss, torch.zeros(1), torch.zeros(1), delta)
    (slope,) = torch.autograd.grad(value, theta)
    vector = (2.0 - h * 0.5) * sum((1 - eta * h) ** i for i in range(steps + 1))
    assert float(value.detach()) == pytest.approx(2.0 * 0.5 - h * 0.25 / 2)
    assert float(slope) == pytest.approx(0.5 + eta * vector)


def test_masks_are_taken_off_without_a_trace(cnn: OpenCLIPEncoder) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    plain = cnn.encode_images(images)
    masked = MaskedNorms(cnn)
    torch.testing.assert_close(cnn.encode_images(images), plain)
    with torch.no_grad():
        masked.masks()[0].fill_(-3)
    masked.clip()
    assert masked.masks()[0].eq(0).all()
    assert not torch.allclose(cnn.encode_images(images), plain)
    masked.remove()
    after = cnn.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_pruning_takes_the_smallest_masks_and_minds_the_accuracy(shots: LabelledImages) -> None:
    torch.manual_seed(1)
    model = build_open_clip(CONVOLUTIONAL)
    masks = [torch.ones(len(norm.get_parameter("weight"))) for norm in scaled_norms(model)]
    masks[0][[1, 3]] = torch.tensor([0.1, 0.0])
    masks[2][0] = 0.5
    weights = zero_shot_weights(model, shots.classes)
    assert prune_by_masks(model, masks, weights, shots, PruningConfig(max_drop=1)) == 2
    scale = scaled_norms(model)[0].get_parameter("weight")
    assert scale.eq(0).nonzero().flatten().tolist() == [1, 3]
    assert scaled_norms(model)[2].get_parameter("weight")[0] != 0, "above the threshold"
    everything = [torch.zeros_like(mask) for mask in masks]
    kept = prune_by_masks(model, everything, weights, shots, PruningConfig(max_drop=0, chunks=2))
    assert kept in (0, sum(map(len, masks)) // 2, sum(map(len, masks)))


@pytest.mark.parametrize("config", [CONVOLUTIONAL, MODIFIED, SMALL], ids=["timm", "attention pool", "vit"])
def test_units_before_the_projection(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build_open_clip(config)
    images = torch.rand(3, 3, 32, 32)
    whole = model.raw_image_features(images)
    with before_projection(model):
        units = model.raw_image_features(images)
    torch.testing.assert_close(model.raw_image_features(images), whole)
    gone = torch.zeros(units.shape[1], dtype=torch.bool)
    gone[::2] = True
    drop_units(model, gone)
    with before_projection(model):
        torch.testing.assert_close(model.raw_image_features(images), units)
    left = model.raw_image_features(images)
    drop_units(model, ~gone)
    assert not torch.allclose(left, whole)
    nothing = model.raw_image_features(images)
    torch.testing.assert_close(nothing, nothing[:1].expand_as(nothing))  # a bias may be left


def test_stages_are_recorded_in_order(cnn: OpenCLIPEncoder, vit: OpenCLIPEncoder) -> None:
    images = torch.rand(2, 3, 32, 32)
    with recorded(stages(cnn)) as maps:
        cnn.encode_images(images)
    assert [tuple(found.shape[1:]) for found in maps] == [(64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1)]
    with recorded(stages(vit)) as tokens:
        vit.encode_images(images)
    assert [tuple(found.shape) for found in tokens] == [(2, 5, 32)] * 3


def test_prompts_in_the_blocks_are_what_a_forward_by_hand_gives(vit: OpenCLIPEncoder) -> None:
    """Against open_clip's own parts put together: tokens, blocks with prompts behind the class token, the rest."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 32, 32, generator=generator)
    prompts = torch.randn(3, 4, token_width(vit), generator=generator)
    prompted = PromptedEncoder(vit, prompts)
    tower = vit.model.visual
    tokens = tower._embeds((images - vit.image_mean) / vit.image_std)
    for block, own in zip(tower.transformer.resblocks, prompts, strict=True):
        full = block(torch.cat([tokens[:, :1], own.expand(2, -1, -1), tokens[:, 1:]], dim=1))
        tokens = torch.cat([full[:, :1], full[:, 5:]], dim=1)
    pooled, _ = tower._pool(tokens)
    wanted = F.normalize(pooled @ tower.proj, dim=-1)
    torch.testing.assert_close(prompted.encode_images(images), wanted, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(vit.encode_images(images), wanted, atol=1e-3), "the model itself has none"
    assert torch.equal(prompted.encode_texts(["cat"]), vit.encode_texts(["cat"]))


def test_the_attack_of_apt_keeps_its_bound_and_misleads(cnn: OpenCLIPEncoder, shots: LabelledImages) -> None:
    task = ShotTask(cnn, shots, ShotsConfig(batch_size=8))
    images, labels = task.batch(0)
    defense = APT(APTConfig())
    with cnn.frozen():
        moved = defense.attack(cnn, images, labels, task.weights, task.scale, torch.Generator().manual_seed(0))
        assert float(task.loss(cnn, moved, labels)) > float(task.loss(cnn, images, labels))
    assert float((moved - images).abs().max()) <= 4 / 255 + 1e-6


def test_batches_are_a_function_of_seed_and_step(cnn: OpenCLIPEncoder, shots: LabelledImages) -> None:
    task, again = (ShotTask(cnn, shots, ShotsConfig(batch_size=4, seed=2)) for _ in range(2))
    assert torch.equal(task.batch(7)[0], again.batch(7)[0])
    assert not torch.equal(task.batch(7)[0], task.batch(8)[0])
    assert task.batch(0)[0].shape == (4, 3, 32, 32)


def test_a_descent_that_diverges_is_said() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ModelError, match="not finite at step 1"):
        descend(torch.optim.SGD([weight]), lambda step: weight.sum() / 0, steps=3, description="trying")


QUICK: dict[str, dict[str, Any]] = {
    "par": {"training": {"steps": 2, "batch_size": 4}},
    "finetune": {"training": {"steps": 2, "batch_size": 4}, "rates": [1e-3, 1e-4]},
    "cleanclip": {"training": {"steps": 2, "batch_size": 4}, "rates": [1e-3, 1e-4]},
    "coop": {"epochs": 2, "views": 2},
    "coop-shared": {"epochs": 2, "views": 2},
    "apt": {"steps": 2, "batch_size": 4},
    "rvpt": {"steps": 2, "batch_size": 4, "prompts": 3},
    "invertune": {"probe_steps": 2, "invert_steps": 2, "tune_steps": 2, "batch_size": 4},
    "fine-pruning": {"steps": 2, "batch_size": 4, "chunks": 4},
    "anp": {"steps": 2, "batch_size": 4, "chunks": 2},
    "nad": {"teacher_steps": 2, "steps": 2, "batch_size": 4},
    "ibau": {"rounds": 2, "inner_steps": 1, "outer_steps": 1, "batch_size": 4},
    "rnp": {"unlearn_steps": 2, "recover_steps": 2, "batch_size": 4, "chunks": 2},
    "neural-polarizer": {"steps": 2, "batch_size": 4, "attack_steps": 2},
    "projection": {"steps": 2, "batch_size": 4, "samples": 1, "rank": 2},
}
PROMPTS = {"coop", "coop-shared", "apt"}


@pytest.mark.parametrize("tower", ["cnn", "vit"])
@pytest.mark.parametrize("name", QUICK)
def test_every_defense_runs_and_leaves_the_suspect_alone(
    name: str, tower: str, shots: LabelledImages, request: pytest.FixtureRequest
) -> None:
    suspect: OpenCLIPEncoder = request.getfixturevalue(tower)
    torch.manual_seed(9)
    base = build_open_clip(CONVOLUTIONAL if tower == "cnn" else DEEP_VIT)
    before = {key: value.clone() for key, value in suspect.state_dict().items()}
    flags = [parameter.requires_grad for parameter in suspect.parameters()]
    modes = [module.training for module in suspect.modules()]
    if (name, tower) == ("rvpt", "cnn"):
        with pytest.raises(RefusedError, match="ViT image tower"):
            defend(suspect, shots, name, QUICK[name])
        return
    made, again = (defend(suspect, shots, name, QUICK[name], seed=1, base=base) for _ in range(2))
    after = suspect.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert [parameter.requires_grad for parameter in suspect.parameters()] == flags
    assert [module.training for module in suspect.modules()] == modes
    changed = made.classifier.model is not suspect
    assert changed == (name not in PROMPTS)
    assert changed == ("prompts" not in made.profile.changes)
    assert isinstance(made.classifier, PurifiedCLIP) == (name in PROMPTS)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = made.classifier(images)
    assert logits.shape == (2, 3)
    assert torch.equal(logits, again.classifier(images)), "the same seed gives the same result"
    assert made.details == again.details


@pytest.mark.parametrize("name", ["coop", "coop-shared"])
def test_coop_tunes_contexts_that_fit_the_shots(
    name: str, tiny: OpenCLIPEncoder, train_images: LabelledImages
) -> None:
    few = train_images.sample_shots(2, seed=0)
    made = defend(tiny, few, name, {"epochs": 30, "lr": 0.02, "views": 2}, seed=0)
    width = tiny.model.token_embedding.weight.shape[1]
    assert made.trained == 4 * width * (1 if name == "coop-shared" else 10)
    pixels = few.tensor(tiny.image_size).float() / 255
    undefended = ca.ZeroShotClassifier.from_templates(tiny, few.classes, ["a photo of a {}."])
    was, became = (F.cross_entropy(c(pixels), few.labels) for c in (undefended, made.classifier))
    assert float(became) < float(was)
    assert isinstance(made.classifier, PurifiedCLIP)
    contexts = made.classifier.context
    assert torch.equal(contexts[0], contexts[1]) == (name == "coop-shared")


def test_the_learning_rate_is_the_best_on_held_out_shots(vit: OpenCLIPEncoder, shots: LabelledImages) -> None:
    rates = (1e-5, 1e-3)
    made = defend(vit, shots, "cleanclip", {"training": {"steps": 1, "batch_size": 4}, "rates": rates})
    tried = made.details["held_out_accuracy"]
    assert set(tried) == {"1e-05", "0.001"}
    best = max(tried.values())
    assert made.details["learning_rate"] == max(rate for rate in rates if tried[f"{rate:g}"] == best)
    assert make_defense("finetune").config.self_supervision == 0
    assert CleanCLIPConfig().self_supervision == 1


def test_what_defenses_keep_can_be_read_again(
    vit: OpenCLIPEncoder, model_folder: str, photos: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "s.yaml").write_text("steps: 1\nbatch_size: 4\n")
    arguments = ["defend", model_folder, "--data", photos, "--shots", 2, "--config", "s.yaml", "--json"]
    assert cli(*arguments, "--defense", "apt", "--out", "prompted").json()["kept"] == "artefact"
    assert cli("evaluate", "prompted", "--data", photos).status == 0
    assert cli(*arguments, "--defense", "neural-polarizer", "--out", "model").json()["kept"] == "model"
    assert cli("evaluate", "local-dir:model", "--data", photos).status == 0
    report = cli(*arguments, "--defense", "rvpt", "--out", "deep").json()
    assert (report["kept"], report["trained"]) == ("weights", 50 * 32)
    from safetensors.torch import load_file, save_file

    file = tmp_path / "deep" / "weights.safetensors"
    kept = load_file(file)
    assert kept["visual_prompts"].shape == (1, 50, 32)
    assert kept["class_weights"].shape == (2, 16)
    images = ca.load_images(str(photos)).tensor(vit.image_size).float() / 255
    again = load_defended(tmp_path / "deep")
    assert isinstance(again.model, PromptedEncoder)
    assert torch.equal(again.weights, kept["class_weights"])
    assert not torch.allclose(again.model.encode_images(images), load_model(model_folder).encode_images(images))
    for folder in ("prompted", "model", "deep"):
        measured = cli("evaluate", folder, "--data", photos, "--json", "m.json")
        assert measured.status == 0
        told = json.loads((tmp_path / folder / "defended.json").read_text())["after"]
        assert json.loads((tmp_path / "m.json").read_text())["ca"] == told["ca"], folder
    save_file(kept | {"visual_prompts": kept["visual_prompts"][:, :, :5].contiguous()}, file)
    assert "do not fit the model it names" in cli("evaluate", "deep", "--data", photos).err
    report = tmp_path / "deep" / "defended.json"
    whole = report.read_text()
    report.write_text("{}")
    assert "defended.json, 'defense': Field required" in " ".join(
        cli("evaluate", "deep", "--data", photos).err.split()
    )
    report.write_text(whole)
    file.unlink()
    assert "is not a defended model" in cli("evaluate", "deep", "--data", photos).err
