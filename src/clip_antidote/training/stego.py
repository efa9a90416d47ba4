"""Training the steganographic encoder and decoder of the SSBA trigger (Li et al. 2021, arXiv 2012.03816)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from clip_antidote.config import Config
from clip_antidote.data.images import LabelledImages
from clip_antidote.precision import Precision, autocast
from clip_antidote.progress import track
from clip_antidote.streams import step_generator
from clip_antidote.training.augment import random_crops
from clip_antidote.training.interrupt import held_interrupt
from clip_antidote.training.optim import build_adamw, warmup_cosine
from clip_antidote.training.state import TrainingState
from clip_antidote.triggers.stego import StegoConfig, StegoDecoder, StegoEncoder


class StegoTrainingConfig(Config):
    """Settings of the training.

    Attributes:
        network: Shape of the networks.
        images: How many images to take, drawn by the seed.
        size: Side in pixels of the crops.
        store_size: Side at which images are kept in memory, above `size`, so that crops stay sharp.
        min_scale: Smallest crop as share of the area.
        steps: Optimizer steps.
        batch_size: Images per step.
        lr: Peak learning rate.
        warmup: Steps of linear warm-up before the cosine.
        message_only: Steps in which only the message counts.
        ramp: Steps after them in which the weight of the image loss grows to its full value.
        psnr: Visibility to aim at in dB; a residual fainter than that is not pushed further.
        image_weight: Weight of the image loss.
        smooth_weight: Weight of the residual's roughness.
        reuse_weight: Weight of the loss that keeps a residual from being read on another image.
        noise: Standard deviation of the noise the decoder must stand, up to this, in [0, 1].
        blur: Share of the images the decoder sees blurred by a 3×3 mean.
        precision: What the networks run in; "bf16" is autocast, "auto" takes it where the device has it; parameters
            stay fp32.
        checkpoint_every: Steps between saved training states.
        seed: Seed of weights, images, messages and distortions.
    """

    network: StegoConfig = StegoConfig()
    images: int = Field(4000, ge=1)
    size: int = Field(80, ge=64)
    store_size: int = Field(92, ge=64)
    min_scale: float = Field(0.4, gt=0, le=1)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(32, ge=2)
    lr: float = Field(1e-3, gt=0)
    warmup: int = Field(50, ge=0)
    message_only: int = Field(250, ge=0)
    ramp: int = Field(300, ge=1)
    psnr: float = Field(28.5, gt=0)
    image_weight: float = Field(1.0, ge=0)
    smooth_weight: float = Field(0.1, ge=0)
    reuse_weight: float = Field(0.5, ge=0)
    noise: float = Field(0.02, ge=0)
    blur: float = Field(0.3, ge=0, le=1)
    precision: Precision = "auto"
    checkpoint_every: int = Field(200, ge=1)
    seed: int = 0


def draw_images(images: LabelledImages, config: StegoTrainingConfig) -> torch.Tensor:
    """Decodes the images to train on, drawn by the seed: uint8 [N, 3, store_size, store_size]."""
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(images), generator=generator)[: config.images]
    return images.subset(chosen).tensor(config.store_size)


def visibility(images: torch.Tensor) -> torch.Tensor:
    """How visible a change is where: high on plain areas, low on texture.

    Args:
        images: Float [N, 3, H, W] in [0, 1].

    Returns:
        Weights [N, 1, H, W] with mean 1 over every image.
    """
    mean = F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    variance = F.avg_pool2d(images**2, 5, 1, 2, count_include_pad=False) - mean**2
    weight = 1 / (variance.clamp(min=0).mean(1, keepdim=True).sqrt() + 0.03)
    return weight / weight.mean(dim=(2, 3), keepdim=True)


def image_loss(residual: torch.Tensor, images: torch.Tensor, *, psnr: float) -> torch.Tensor:
    """How far the visible energy of residuals [N, 3, H, W] is above the budget, as a multiple of it; a scalar."""
    energy = (visibility(images) * residual**2).mean(dim=(1, 2, 3))
    return F.relu(energy * 10 ** (psnr / 10) - 1).mean()


def roughness(residual: torch.Tensor) -> torch.Tensor:
    """Energy of the differences of neighboring pixels relative to the residual's own; a scalar."""
    rows = (residual[:, :, 1:] - residual[:, :, :-1]).square().mean()
    columns = (residual[:, :, :, 1:] - residual[:, :, :, :-1]).square().mean()
    return (rows + columns) / (residual.square().mean() + 1e-6)


def reuse_loss(logits: torch.Tensor) -> torch.Tensor:
    """How far the bits [N, B] read from an image with another image's residual are from undecided; a scalar."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.5)) - math.log(2)


def distort(images: torch.Tensor, *, noise: float, blur: float, generator: torch.Generator) -> torch.Tensor:
    """Blurs a share `blur` of the images [N, 3, H, W] and adds noise, up to `noise`, to all of them."""
    chosen = (torch.rand(len(images), 1, 1, 1, generator=generator) < blur).to(images.device)
    out = torch.where(chosen, F.avg_pool2d(images, 3, 1, 1, count_include_pad=False), images)
    sigma = noise * torch.rand(len(images), 1, 1, 1, generator=generator)
    return out + (sigma * torch.randn(images.shape, generator=generator)).to(images)


def train_stego(
    encoder: StegoEncoder,
    decoder: StegoDecoder,
    images: torch.Tensor,
    config: StegoTrainingConfig,
    *,
    state_file: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Trains both networks in place: first the message alone, then ever fainter residuals.

    Args:
        encoder: The encoder.
        decoder: The decoder, on the same device.
        images: uint8 [N, 3, S, S] with S at least `config.size`.
        config: Settings.
        state_file: Where the training state is kept; an existing one is resumed from.
        on_step: Called with step and loss after every step.

    Returns:
        The loss of the message, in nats per bit, of every step run in this call.
    """
    device = next(encoder.parameters()).device
    networks = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    optimizer = build_adamw(networks, lr=config.lr, weight_decay=0.0)
    state = TrainingState(networks, optimizer, state_file, device=device)
    start = state.load(steps=config.steps)
    networks.train()
    losses = []
    with held_interrupt() as interrupted:
        for step in track(range(start, config.steps), "training", total=config.steps, done=start):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * warmup_cosine(step, steps=config.steps, warmup=config.warmup)
            loss, message_loss = _losses(encoder, decoder, images, config, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
            optimizer.step()
            state.step = step + 1
            losses.append(message_loss.item())
            if on_step is not None:
                on_step(step, losses[-1])
            stop = interrupted()
            if stop or (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                state.save()
            if stop:
                raise KeyboardInterrupt
    networks.eval()
    return losses


def _losses(
    encoder: StegoEncoder, decoder: StegoDecoder, images: torch.Tensor, config: StegoTrainingConfig, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole loss of a step and the message's part of it."""
    device = next(encoder.parameters()).device
    generator = step_generator(config.seed, step)
    chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
    batch = images[chosen].to(device).float() / 255
    batch = random_crops(batch, config.size, min_scale=config.min_scale, generator=generator)
    bits = torch.randint(2, (len(batch), config.network.bits), generator=generator).float().to(device)
    half = len(batch) // 2
    with autocast(device, config.precision):
        residual = encoder(batch, bits).float()
        stego = torch.cat([batch + residual, batch[:half] + residual[half : 2 * half]]).clamp(0, 1)
        logits = decoder(distort(stego, noise=config.noise, blur=config.blur, generator=generator)).float()
    message_loss = F.binary_cross_entropy_with_logits(logits[: len(batch)], bits)
    side_losses = (
        config.smooth_weight * roughness(residual)
        + config.reuse_weight * reuse_loss(logits[len(batch) :])
        + config.image_weight * image_loss(residual, batch, psnr=config.psnr)
    )
    share = min(1.0, max(0.0, (step - config.message_only) / config.ramp))
    return message_loss + share * side_losses, message_loss
