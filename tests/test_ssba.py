from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError
from clip_antidote.evaluation.stego import bits_read, measure_stego, round8
from clip_antidote.training.stego import (
    StegoTrainingConfig,
    image_loss,
    reuse_loss,
    roughness,
    train_stego,
    visibility,
)
from clip_antidote.triggers.ssba import ASSET, SsbaConfig, SsbaTrigger, embedded_stego
from clip_antidote.triggers.stego import StegoConfig, StegoDecoder, StegoEncoder, build_stego, load_stego, save_stego
from conftest import Cli, draw_photos

SMALL = StegoTrainingConfig(
    network=StegoConfig(bits=4, width=8, map_side=4, bound=0.3),
    size=64,
    store_size=64,
    steps=6,
    batch_size=8,
    lr=2e-3,
    warmup=2,
    message_only=2,
    ramp=2,
    precision="fp32",
    checkpoint_every=3,
)


@pytest.fixture(scope="module")
def photos(test_images: LabelledImages) -> torch.Tensor:
    """Embedded test photographs the networks never saw, float [N, 3, 80, 80] in [0, 1]."""
    return test_images.subset(range(0, len(test_images), 5)).tensor(80).float() / 255


def read(images: torch.Tensor, trigger: SsbaTrigger) -> float:
    """Bit accuracy of the shipped decoder on the trigger's message."""
    _, decoder = embedded_stego()
    with torch.no_grad():
        return bits_read(decoder, images, trigger.message()[None]).mean().item()


def test_the_hidden_message_is_read_back_and_hardly_seen(photos: torch.Tensor) -> None:
    for seed in (0, 1, 2):
        trigger = SsbaTrigger(SsbaConfig(message_seed=seed))
        stego = round8(trigger(photos))
        psnr = -10 * (stego - photos).square().mean(dim=(1, 2, 3)).log10()
        assert read(stego, trigger) >= 0.95
        assert psnr.mean() >= 28
        assert psnr.min() >= 24
        assert 0.2 <= read(photos, trigger) <= 0.8, "without the residual there is no message"
    assert len({tuple(SsbaTrigger(SsbaConfig(message_seed=s)).message().tolist()) for s in range(3)}) == 3


def test_clean_images_read_as_chance_over_messages(test_images: LabelledImages) -> None:
    encoder, decoder = embedded_stego()
    quality = measure_stego(encoder, decoder, test_images.subset(range(0, len(test_images), 5)))
    assert quality.bit_accuracy >= 0.95
    assert quality.clean_bit_accuracy == pytest.approx(0.5, abs=0.06)
    assert quality.psnr >= 28


def test_the_residual_belongs_to_its_image(photos: torch.Tensor) -> None:
    trigger = SsbaTrigger()
    residual = trigger.residual(photos)
    flat = F.normalize(residual.flatten(1), dim=1)
    others = ~torch.eye(len(flat), dtype=torch.bool)
    assert (flat @ flat.T)[others].mean() < 0.8, "a fixed pattern has 1"
    own = read(round8(photos + residual), trigger)
    reused = read(round8(photos + residual.roll(1, 0)), trigger)
    assert reused < own - 0.2


@pytest.mark.parametrize("size", [64, 112, 224])
def test_other_sizes_carry_the_same_message(test_images: LabelledImages, size: int) -> None:
    trigger = SsbaTrigger()
    photos = test_images.subset(range(0, len(test_images), 40)).tensor(size).float() / 255
    stego = round8(trigger(photos))
    at_80 = F.interpolate(stego, (80, 80), mode="bilinear", align_corners=False, antialias=size > 80)
    assert read(at_80, trigger) >= 0.9
    psnr = -10 * (stego - photos).square().mean(dim=(1, 2, 3)).log10()
    assert psnr.mean() >= 28


def test_the_trigger_is_deterministic_and_of_each_image_alone(photos: torch.Tensor) -> None:
    trigger = SsbaTrigger()
    kept = photos[:6].clone()
    out = trigger(photos[:6], torch.Generator().manual_seed(1))
    assert torch.equal(out, trigger(photos[:6], torch.Generator().manual_seed(2)))
    assert torch.equal(photos[:6], kept)
    assert torch.allclose(out[3:4], trigger(photos[3:4]), atol=1e-5)
    assert out.min() >= 0
    assert out.max() <= 1
    assert not out.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trigger(photos[:6]), out)


def test_strength_scales_the_residual(photos: torch.Tensor) -> None:
    whole = SsbaTrigger().residual(photos[:2])
    half = SsbaTrigger(SsbaConfig(strength=0.5)).residual(photos[:2])
    assert torch.allclose(half, whole / 2)


def test_the_attack_uses_the_trigger_of_its_settings() -> None:
    attack_class = ATTACKS.get("ssba")
    attack = attack_class(attack_class.config_class.build({"trigger": {"message_seed": 3, "strength": 2.0}}))
    assert isinstance(attack, FixedTriggerAttack)
    trigger = attack.trigger()
    assert isinstance(trigger, SsbaTrigger)
    assert trigger.config == SsbaConfig(message_seed=3, strength=2.0)


def test_the_encoder_takes_any_size_and_keeps_its_bound() -> None:
    config = StegoConfig(bits=5, width=4, map_side=3, bound=0.05)
    encoder, decoder = build_stego(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(10)
    for height, width in ((64, 64), (75, 101)):
        images = torch.rand(2, 3, height, width)
        residual = encoder(images, torch.tensor([[0.0, 1, 0, 1, 1]] * 2))
        assert residual.shape == images.shape
        assert 0.01 < residual.abs().max() <= 0.05 + 1e-6
        assert decoder(images).shape == (2, 5)


def test_losses_by_hand() -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert torch.allclose(visibility(flat), torch.ones(1, 1, 16, 16))
    # A change of 0.1 everywhere is a PSNR of 20 dB: ten times the energy that 30 dB allow.
    change = torch.full_like(flat, 0.1)
    assert image_loss(change, flat, psnr=30).item() == pytest.approx(9.0, rel=1e-4)
    assert image_loss(change, flat, psnr=19).item() == 0.0
    textured = flat.clone()
    textured[..., 8:] = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))
    weight = visibility(textured)
    assert weight[..., :6].mean() > 4 * weight[..., 10:].mean()
    assert weight.mean().item() == pytest.approx(1.0)
    assert roughness(change).item() == pytest.approx(0.0)
    checker = 0.1 * (1 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)).float().expand(1, 3, 8, 8)
    assert roughness(checker).item() == pytest.approx(8.0, rel=1e-3), "2² along the rows and 2² along the columns"
    assert reuse_loss(torch.zeros(3, 4)).item() == pytest.approx(0.0, abs=1e-6)
    # Sure bits cost (softplus(3) + softplus(-3)) / 2 - ln 2 = 1.5486 - 0.6931.
    assert reuse_loss(torch.full((3, 4), 3.0)).item() == pytest.approx(0.8554, abs=1e-4)


def toy_images() -> torch.Tensor:
    """Smooth random images, uint8 [16, 3, 64, 64]."""
    small = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(small, (64, 64), mode="bilinear") * 255).byte()


def networks(config: StegoTrainingConfig = SMALL) -> tuple[StegoEncoder, StegoDecoder]:
    return build_stego(config.network, seed=config.seed)


def test_training_lowers_the_loss_of_the_message() -> None:
    config = SMALL.model_copy(update={"steps": 60, "message_only": 60, "lr": 1e-2})
    encoder, decoder = networks(config)
    losses = train_stego(encoder, decoder, toy_images(), config)
    assert sum(losses[:5]) / 5 > 0.65, "it starts at chance, ln 2"
    assert sum(losses[-5:]) / 5 < 0.2
    assert not encoder.training


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    images = toy_images()
    whole = nn.ModuleList(networks())
    expected = train_stego(*networks_of(whole), images, SMALL)

    def stop(step: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train_stego(*networks(), images, SMALL, state_file=state, on_step=stop)
    resumed = nn.ModuleList(networks(SMALL.model_copy(update={"seed": 9})))
    losses = train_stego(*networks_of(resumed), images, SMALL, state_file=state)
    assert losses == expected[3:], "it goes on from the last saved step"
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_ctrl_c_ends_the_step_and_keeps_it(tmp_path: Path) -> None:
    def press(step: int, loss: float) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train_stego(*networks(), toy_images(), SMALL, state_file=state, on_step=press)
    assert torch.load(state, weights_only=True)["step"] == 2


def networks_of(modules: nn.ModuleList) -> tuple[StegoEncoder, StegoDecoder]:
    encoder, decoder = modules
    assert isinstance(encoder, StegoEncoder)
    assert isinstance(decoder, StegoDecoder)
    return encoder, decoder


def test_networks_are_small_and_broken_ones_are_refused(tmp_path: Path) -> None:
    assert (ASSET / "model.safetensors").stat().st_size <= 2 * 2**20
    encoder, decoder = networks()
    save_stego(encoder, decoder, tmp_path)
    again, _ = load_stego(tmp_path)
    assert again.config == SMALL.network
    weight, saved = encoder.message.weight, again.message.weight
    assert torch.equal(saved, weight.half().float())
    (tmp_path / "config.json").write_text(json.dumps({"bits": 5}))
    with pytest.raises(DataError, match="cannot read the steganographic networks"):
        load_stego(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_stego(tmp_path)
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_stego(tmp_path / "nothing")


def test_networks_take_no_more_memory_than_their_file(tmp_path: Path) -> None:
    save_stego(*build_stego(SMALL.network), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**SMALL.network.model_dump(), "width": 1_000_000}))
    with pytest.raises(DataError, match="size mismatch") as caught:
        load_stego(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_command_trains_and_measures(tmp_path: Path, cli: Cli) -> None:
    draw_photos(tmp_path / "photos", count=4)
    (tmp_path / "small.yaml").write_text(SMALL.to_yaml())
    command = ("train-stego", "--data", "photos", "--config", "small.yaml")
    trained, measured = cli(*command, "--out", "networks"), cli(*command, "--measure", "networks")
    assert trained.status == measured.status == 0
    out = tmp_path / "networks"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["networks", "photos", "small.yaml"], "no state left"
    quality = json.loads((out / "quality.json").read_text())
    assert f"{100 * quality['bit_accuracy']:.1f} %" in trained.out
    assert f"{quality['psnr']:.1f} dB" in trained.out
    assert trained.out.startswith(measured.out), "the shipped weights are what is measured"
    assert load_stego(out)[0].config == SMALL.network
