"""Several processes that train one model, as torchrun starts them.

Every process sees the whole batch but encodes only its part of it. Features are put together, so that
every process computes the loss of the whole batch, and gradients are summed: the update is that of one
process, up to the order in which numbers are added.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from clip_antidote.errors import UsageError
from clip_antidote.progress import hide_progress

_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_WAIT = timedelta(days=1)  # torchrun ends the others when one fails; waiting for the first may take long
_BUCKET = 2**25  # numbers summed at once
_CHUNK = 2**26  # bytes sent at once


@dataclass(frozen=True)
class Ranks:
    """The processes that work together; one alone where there is no process group.

    Attributes:
        rank: Which of them this is, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Returns those of torch's process group."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and measures."""
        return self.rank == 0

    def part(self, total: int) -> slice:
        """Returns this process's share of `total` rows; shares differ by one at most."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def collect(self, own: torch.Tensor, total: int) -> torch.Tensor:
        """Puts the rows of all processes together: from `own` [n, D], this one's `part`, to [total, D].

        Carries no gradient. Every process computes the same loss from the result, so the gradient of its
        own rows is complete and needs no exchange.
        """
        if self.count == 1:
            return own
        rows = own.new_zeros(total, *own.shape[1:])
        rows[self.part(total)] = own
        dist.all_reduce(rows)
        return rows

    def sum_gradients(self, module: nn.Module, *, complete: torch.Tensor) -> None:
        """Adds up the gradients of all processes, in place.

        Args:
            module: The model.
            complete: The parameter whose gradient every process has as a whole already.
        """
        if self.count == 1:
            return
        if not self.first and complete.grad is not None:
            complete.grad.zero_()  # counted once, and the same to the last bit everywhere
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        used = used.to(_device())
        dist.all_reduce(used, dist.ReduceOp.MAX)
        gradients = []
        for parameter, flag in zip(parameters, used.tolist(), strict=True):
            if flag and parameter.grad is None:  # another process had texts, this one had none
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(total.view(gradient.shape))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in at least one process."""
        if self.count == 1:
            return flag
        value = torch.tensor([int(flag)], device=_device())
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def share(self, data: bytes) -> bytes:
        """Gives every process the bytes of the first one; what the others pass is ignored."""
        if self.count == 1:
            return data
        length = torch.tensor([len(data)], device=_device())
        dist.broadcast(length, 0)
        parts = []
        for start in range(0, int(length.item()), _CHUNK):
            size = min(_CHUNK, int(length.item()) - start)
            if self.first:
                chunk = torch.frombuffer(bytearray(data[start : start + size]), dtype=torch.uint8).to(_device())
            else:
                chunk = torch.empty(size, dtype=torch.uint8, device=_device())
            dist.broadcast(chunk, 0)
            parts.append(chunk.cpu().numpy().tobytes())
        return b"".join(parts)


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and (sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _device() -> torch.device:
    """Where tensors must be to be exchanged."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Joins the processes that torchrun started, for the block; does nothing in a process alone.

    Progress is shown by the first process only.

    Args:
        device: cpu, or cuda, which becomes the GPU of this process.

    Yields:
        The device of this process.

    Raises:
        UsageError: The environment is incomplete, or the device does not do for several processes.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 2 or dist.is_initialized():
        yield device
        return
    missing = [name for name in _LAUNCHED if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is {count} but {missing[0]} is not set; start several processes with torchrun")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"several processes train on cpu or cuda, not on {device}")
    place: torch.device | None = None
    if device == "cuda":
        local, available = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= available:
            raise UsageError(f"process {local} of this machine has no GPU of its own; there are {available}")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place else "gloo", timeout=_WAIT, device_id=place)
    try:
        if Ranks.current().first:
            yield str(place or device)
        else:
            with hide_progress():
                yield str(place or device)
        dist.barrier()
    finally:
        dist.destroy_process_group()
