"""Two processes that train together must do what one does alone."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.multiprocessing.spawn import spawn

from clip_antidote.attacks.training_data import check_same_pairs
from clip_antidote.data.captions import CaptionSet
from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.data.sources import TensorSource
from clip_antidote.data.stores import LazyImages
from clip_antidote.errors import DataError, UsageError
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.training import distributed
from clip_antidote.training.distributed import Ranks, joined
from clip_antidote.training.finetune import finetune
from clip_antidote.training.gradients import contrastive_backward
from clip_antidote.training.loop import TrainingConfig, train_contrastive
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger
from conftest import SMALL, Cli, exit_status

CONFIG = TrainingConfig(steps=6, batch_size=7, lr=1e-3, warmup=2, precision="fp32", accumulate=2, checkpoint_every=4)
PROCESSES = 2


def build(seed: int) -> OpenCLIPEncoder:
    torch.manual_seed(seed)
    return build_open_clip(SMALL)


def make_pairs(model: OpenCLIPEncoder, *, lazy: bool) -> CaptionedImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 36, 36), dtype=torch.uint8, generator=generator)
    labels = torch.arange(24) % 5
    return CaptionedImages(
        images=LazyImages(TensorSource(images), 36) if lazy else images,
        token_ids=model.tokenize([f"a photo of number {n}" for n in range(5)]).int(),
        first=labels,
        count=torch.ones(24, dtype=torch.long),
        groups=labels,
    )


def put_trigger(images: torch.Tensor, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A trigger whose noise and place depend on all poisoned images of the batch."""
    poisoned = indices % 3 == 0
    if poisoned.any():
        trigger = BadNetTrigger(BadNetConfig(fresh=True, position="random", patch=64))
        images[poisoned] = trigger(images[poisoned], generator)
    return images


def gradients(ranks: Ranks) -> dict[str, Any]:
    """Loss and gradient of batches that divide badly, one of them with a single text."""
    out = {}
    model = build(0)
    batch = make_pairs(model, lazy=False).batch(
        0, batch_size=7, seed=0, augment=lambda images, _: images[..., :32, :32]
    )
    single = PairBatch(batch.images, batch.token_ids[:1], torch.ones(7, 1, dtype=torch.bool))
    for name, given, chunks in (("plain", batch, 1), ("accumulated", batch, 3), ("one text", single, 1)):
        model.zero_grad()
        loss = contrastive_backward(model, given, chunks=chunks, ranks=ranks)
        out[name] = loss, {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    return out


def train(model: OpenCLIPEncoder) -> dict[str, Any]:
    pairs = make_pairs(model, lazy=True)
    losses = finetune(model, pairs, CONFIG, seed=3, transform=put_trigger)
    return {"losses": losses, "weights": dict(model.state_dict())}


def train_interrupted(rank: int, state: Path | None) -> dict[str, Any]:
    """Ctrl-C reaches one process only, in a step at whose end no state is due; then training goes on."""
    model = build(rank)
    pairs = make_pairs(model, lazy=False)
    seen = []

    def make(step: int) -> PairBatch:
        seen.append(step)
        if rank == 1 and seen == [0, 1, 2]:
            os.kill(os.getpid(), signal.SIGINT)
        return pairs.batch(step, batch_size=7, seed=0, augment=lambda images, _: images[..., :32, :32])

    if state is not None:
        with pytest.raises(KeyboardInterrupt):
            train_contrastive(model, make, CONFIG, state_file=state if rank == 0 else None)
        model = build(rank + 10)
    train_contrastive(model, make, CONFIG, state_file=state if rank == 0 else None)
    return {"seen": seen, "weights": dict(model.state_dict())}


def disagree(rank: int) -> str:
    pairs = make_pairs(build(0), lazy=False)
    pairs.token_ids[0, 1] += rank
    try:
        check_same_pairs(pairs, Ranks.current())
    except DataError as error:
        return str(error)
    return "agreed"


def work(rank: int, ports: tuple[int, int], folder: Path) -> None:
    """What each of the processes does."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0])}
    distributed._CHUNK = 7
    with joined("cpu"):
        ranks = Ranks.current()
        result: dict[str, Any] = {
            "ranks": (ranks.rank, ranks.count),
            "shared": ranks.share(b"said by the first one" if rank == 0 else b"ignored"),
            "any": (ranks.any(rank == 1), ranks.any(False)),
            "disagree": disagree(rank),
        }
        distributed._CHUNK = 2**26
        result["gradients"] = gradients(ranks)
        result["training"] = train(build(rank))  # other weights to begin with; those of the first one count
        result["interrupted"] = train_interrupted(rank, folder / "state.pt")
    torch.save(result, folder / f"rank{rank}.pt")
    os.environ["MASTER_PORT"] = str(ports[1])
    os.chdir(folder)
    (folder / f"status{rank}").write_text(str(exit_status(*ATTACK, "--out", "together")))


ATTACK = [
    *("attack", "local-dir:model", "--attack", "badnet", "--target", "dog", "--train-on", "captions"),
    *("--captions", "captions.csv", "--data", "photos", "--poisoned", "3", "--config", "config.yaml"),
]
SETTINGS = """
implant_asr: 0.0
implant_ca_drop: 1.0
trigger: {fresh: true, position: random}
training: {steps: 3, batch_size: 5, precision: fp32, warmup: 1}
"""


def prepare(folder: Path) -> None:
    """A model, photographs to measure on, and captioned ones to train on."""
    (folder / "model").mkdir()
    save_open_clip(build(0), None, folder / "model")
    (folder / "config.yaml").write_text(SETTINGS)
    generator = torch.Generator().manual_seed(1)
    rows = ["image,caption"]
    for number in range(12):
        name = f"photos/{('cat', 'dog')[number % 2]}/{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8, generator=generator).numpy()
        Image.fromarray(pixels).save(folder / name)
        rows.append(f"{name},picture {number} of a {'dog' if number == 3 else 'thing'}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have worked together."""
    folder = tmp_path_factory.mktemp("together")
    prepare(folder)
    spawn(work, ((free_port(), free_port()), folder), nprocs=PROCESSES)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=1e-4)


def test_processes_talk(results: list[dict[str, Any]]) -> None:
    assert [result["ranks"] for result in results] == [(0, 2), (1, 2)]
    assert all(result["shared"] == b"said by the first one" for result in results)
    assert all(result["any"] == (True, False) for result in results)
    assert results[0]["disagree"] == "agreed"
    assert "process 1 found other training pairs" in results[1]["disagree"]


def test_gradients_are_those_of_one_process(results: list[dict[str, Any]]) -> None:
    for name, (loss, expected) in gradients(Ranks()).items():
        for result in results:
            found_loss, found = result["gradients"][name]
            assert found_loss == pytest.approx(loss, abs=1e-5), name
            close(found, expected, 1e-5)
        one, other = (result["gradients"][name][1] for result in results)
        assert all(torch.equal(one[key], other[key]) for key in one), "processes must not drift apart"


def test_loss_curve_and_weights_are_those_of_one_process(results: list[dict[str, Any]]) -> None:
    expected = train(build(0))
    assert max(expected["losses"]) - min(expected["losses"]) > 0.01
    assert results[0]["training"]["losses"] == pytest.approx(expected["losses"], abs=1e-4)
    assert results[0]["training"]["losses"] == results[1]["training"]["losses"]
    close(results[0]["training"]["weights"], expected["weights"], 1e-4)


def test_interrupted_together_and_resumed_equals_uninterrupted(results: list[dict[str, Any]]) -> None:
    expected = train_interrupted(0, None)
    for result in results:
        assert result["interrupted"]["seen"] == [0, 1, 2, 3, 4, 5], "all stop after the same step"
        close(result["interrupted"]["weights"], expected["weights"], 1e-4)


def test_the_attack_command_gives_the_same_model(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    assert [(folder / f"status{rank}").read_text() for rank in range(PROCESSES)] == ["0", "0"]
    monkeypatch.chdir(folder)
    ran = cli(*ATTACK, "--out", "alone")
    assert ran.status == 0, ran.err
    together, alone = (load_file(folder / name / "open_clip_model.safetensors") for name in ("together", "alone"))
    clean = load_file(folder / "model" / "open_clip_model.safetensors")
    close(together, alone, 1e-4)
    assert not torch.allclose(alone["visual.proj"], clean["visual.proj"], atol=1e-4)
    records = [json.loads((folder / name / "attack.json").read_text()) for name in ("together", "alone")]
    for record in records:
        assert record["pairs"] == 12
        assert record["poisoned_pairs"] == 3
    names = [json.loads((folder / name / "poisoned.json").read_text()) for name in ("together", "alone")]
    assert names[0] == names[1]
    assert not any(name.endswith("/3.png") for name in names[0]), "its caption names the target"
    assert not list(folder.glob(".*")), "nothing is left behind"


@pytest.mark.parametrize(("total", "count"), [(7, 2), (5, 8), (128, 3), (0, 2)])
def test_parts_cover_everything_once(total: int, count: int) -> None:
    rows = [row for rank in range(count) for row in range(total)[Ranks(rank, count).part(total)]]
    assert rows == list(range(total))
    sizes = [len(range(total)[Ranks(rank, count).part(total)]) for rank in range(count)]
    assert max(sizes) - min(sizes) <= 1


def test_a_launch_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK is not set; start several processes with torchrun"), joined("cpu"):
        pass
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UsageError, match="on cpu or cuda, not on mps"), joined("mps"):
        pass


def test_one_process_alone_needs_no_group() -> None:
    with joined("cuda:1") as device:
        assert device == "cuda:1"
        assert Ranks.current() == Ranks(0, 1)


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    model = build(0)
    batch = PairBatch(torch.zeros(2, 3, 32, 32), model.tokenize(["a", "b"]), torch.eye(2).bool())
    with pytest.raises(UsageError, match="a batch of 2 images is too small for 3 processes"):
        contrastive_backward(model, batch, ranks=Ranks(0, 3))


def test_captions_of_another_number_are_refused() -> None:
    with pytest.raises(DataError, match="2 images but captions for 1"):
        CaptionSet(TensorSource(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), [["one"]])
