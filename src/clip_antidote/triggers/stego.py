"""Hiding a bit string in an image: a small encoder and decoder after StegaStamp (arXiv 1904.05343)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import nn

from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.files import write_json, write_tensors


class StegoConfig(Config):
    """Shape of the two networks.

    Attributes:
        bits: Length of the hidden message.
        width: Channels of the first convolution; deeper ones have up to three times as many.
        map_side: Side of the small map a linear layer turns the message into.
        bound: Largest change of a pixel, in [0, 1].
    """

    bits: int = Field(24, ge=1, le=64)
    width: int = Field(32, ge=4)
    map_side: int = Field(10, ge=1)
    bound: float = Field(20 / 255, gt=0, le=1)


def _conv(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.SiLU())


class StegoEncoder(nn.Module):
    """Maps an image and a message to the residual that hides the message in this very image.

    A U-Net over the image; at every resolution of its way up it also sees the message, as a map.
    The residual is computed at half the resolution, so that it is no pixel noise.
    """

    def __init__(self, config: StegoConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.message = nn.Linear(config.bits, w * config.map_side**2)
        self.down1 = _conv(3, w, stride=2)
        self.down2 = _conv(w, 2 * w, stride=2)
        self.down3 = _conv(2 * w, 2 * w, stride=2)
        self.up3 = _conv(3 * w, 2 * w)
        self.up2 = _conv(5 * w, 2 * w)
        self.up1 = _conv(4 * w, w)
        self.out = nn.Conv2d(w, 3, 3, padding=1)

    def forward(self, images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        """Returns the residual.

        Args:
            images: Float [N, 3, H, W] in [0, 1], any H and W of 64 or more.
            bits: Float [N, B] of zeros and ones.

        Returns:
            Float [N, 3, H, W] in [-bound, bound].
        """
        side = self.config.map_side
        message = self.message(2 * bits - 1).view(len(bits), -1, side, side)
        d1 = self.down1(2 * images - 1)
        d2 = self.down2(d1)
        d3 = self.down3(d2)
        out = self.up3(torch.cat([d3, _resize(message, d3)], 1))
        out = self.up2(torch.cat([_resize(out, d2), d2, _resize(message, d2)], 1))
        out = self.up1(torch.cat([_resize(out, d1), d1, _resize(message, d1)], 1))
        return _resize(self.out(out).float().tanh() * self.config.bound, images)


class StegoDecoder(nn.Module):
    """Reads a message back."""

    def __init__(self, config: StegoConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.features = nn.Sequential(
            _conv(3, w, stride=2),
            _conv(w, 2 * w, stride=2),
            _conv(2 * w, 2 * w),
            _conv(2 * w, 3 * w, stride=2),
            _conv(3 * w, 2 * w, stride=2),
            nn.AdaptiveAvgPool2d(5),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(2 * w * 25, 4 * w), nn.SiLU(), nn.Linear(4 * w, config.bits))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits [N, B] of the bits for float images [N, 3, H, W] in [0, 1]."""
        logits: torch.Tensor = self.head(self.features(2 * images - 1))
        return logits


def _resize(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if tensor.shape[-2:] == like.shape[-2:]:
        return tensor
    return F.interpolate(tensor, like.shape[-2:], mode="bilinear", align_corners=False)


def build_stego(config: StegoConfig, *, seed: int = 0, device: str = "cpu") -> tuple[StegoEncoder, StegoDecoder]:
    """Returns both networks with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = StegoEncoder(config), StegoDecoder(config)
    return encoder.to(device), decoder.to(device)


def save_stego(encoder: StegoEncoder, decoder: StegoDecoder, folder: Path) -> None:
    """Writes `config.json` and, in fp16, `model.safetensors` into an existing folder."""
    networks = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    weights = {name: value.half() for name, value in networks.state_dict().items()}
    write_tensors(folder / "model.safetensors", weights)
    write_json(folder / "config.json", encoder.config.model_dump(mode="json"))


def load_stego(folder: Path, device: str = "cpu") -> tuple[StegoEncoder, StegoDecoder]:
    """Reads what `save_stego` wrote, as fp32 networks in eval mode without gradients.

    Raises:
        DataError: The folder holds no such networks, or broken ones.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise DataError(f"there are no steganographic networks in {folder}: {name} is missing")
    try:
        config = StegoConfig.build(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        with torch.device("meta"):  # a configuration may ask for networks far larger than their file
            networks = nn.ModuleDict({"encoder": StegoEncoder(config), "decoder": StegoDecoder(config)})
        networks.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    except Exception as error:  # a broken file may fail in many ways; all mean the same to the user
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot read the steganographic networks in {folder} ({reason:.200}); train them again"
        ) from error
    networks.float().to(device).eval().requires_grad_(False)
    encoder, decoder = networks["encoder"], networks["decoder"]
    assert isinstance(encoder, StegoEncoder)
    assert isinstance(decoder, StegoDecoder)
    return encoder, decoder
