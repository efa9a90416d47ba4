"""The job of `clip-antidote train-stego`: the networks behind the SSBA trigger."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.config import merge_settings
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.stego import StegoQuality, measure_stego
from clip_antidote.files import write_json
from clip_antidote.jobs.workplace import workplace
from clip_antidote.training.stego import StegoTrainingConfig, draw_images, train_stego
from clip_antidote.triggers.stego import build_stego, load_stego, save_stego

KIND = "pair of message networks"


def stego_settings(
    file: Path | None = None, *, steps: int | None = None, seed: int | None = None
) -> StegoTrainingConfig:
    """Reads the settings of the training; what is given wins over the file."""
    return StegoTrainingConfig.build(merge_settings(file, {"steps": steps, "seed": seed}))


def run_train_stego(data: str, out: Path, config: StegoTrainingConfig, *, device: str = "cpu") -> StegoQuality:
    """Trains both networks and writes their folder, with `quality.json` beside the weights.

    Args:
        data: Images to train and, by their test split, to measure on.
        out: Folder to write; see `outputs.check_output` for what may be there.
        config: Settings.
        device: Where to compute.

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    with workplace(out, KIND) as work:
        test = load_images(data, split="test")  # what is missing is told before the training, not after it
        images = draw_images(load_images(data, split="train"), config)
        encoder, decoder = build_stego(config.network, seed=config.seed, device=device)
        state = work.resume([data, config.model_dump(mode="json")])
        train_stego(encoder, decoder, images, config, state_file=state / "training.pt")
        with work.result() as folder:
            save_stego(encoder, decoder, folder)
            quality = _measured(folder, test, config, device)
            write_json(folder / "quality.json", quality.to_dict())
    return quality


def run_measure_stego(networks: Path, data: str, config: StegoTrainingConfig, *, device: str = "cpu") -> StegoQuality:
    """Measures the networks in a folder on the test images."""
    return _measured(networks, load_images(data, split="test"), config, device)


def _measured(networks: Path, test: LabelledImages, config: StegoTrainingConfig, device: str) -> StegoQuality:
    return measure_stego(*load_stego(networks, device), test, size=config.size)
