"""The same grid on several workers through Ray: on this machine, or on a cluster whose machines share the folder.

Every worker runs the grid as a process does that was started beside others: it claims a cell, makes it and appends
its record. So nothing is handed over but the recipe, a worker that dies loses the cell it was at, and a grid that was
begun without Ray goes on with it.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_antidote.benchmark.grid import GridConfig, all_runs, run_grid
from clip_antidote.benchmark.records import Key, RunRecord
from clip_antidote.benchmark.store import WAIT, RunLog
from clip_antidote.errors import ClipAntidoteError, DataError, UnsupportedError, UsageError
from clip_antidote.purification.config import CBPTConfig

LOCAL = "local"
"""The address that starts Ray on this machine, for this run alone."""

RETRIES = 3
"""How often a worker that dies, with its machine or for want of memory, is started again."""


def run_on_ray(
    grid: GridConfig,
    data: str,
    out: Path,
    *,
    config: CBPTConfig | None = None,
    address: str = LOCAL,
    workers: int = 2,
    gpus: float = 0,
    cpus: float = 1,
    wait: float = WAIT,
    retry: bool = False,
) -> Iterator[RunRecord]:
    """Runs what has no record yet on Ray's workers, yielding every record, old and new, as they come.

    Args:
        grid: The grid.
        data: Problem folder; every worker must see it, and the present folder, under the same path.
        out: Benchmark folder; the same, with file locks that hold between the machines.
        config: Settings of the purification.
        address: Of the cluster ("auto", "ray://…", "host:port"), or `LOCAL`.
        workers: How many of them.
        gpus: What each takes of a GPU, from 0 on; with any, it computes on "cuda".
        cpus: CPUs of each.
        wait: Seconds between two looks at what has come.
        retry: Whether runs that failed are made again.

    Raises:
        UnsupportedError: Ray is not installed.
        UsageError: There is no cluster at the address, or no worker is asked for.
    """
    if workers < 1:
        raise UsageError(f"a grid needs at least one worker, not {workers}")
    ray = _ray()
    wanted = [run.key(grid.shots) for run in all_runs(grid)]
    out, log = out.resolve(), RunLog(out.resolve())
    log.refresh()
    before = {key: log.runs[key] for key in wanted if key in log.runs}
    again = [key for key, record in before.items() if retry and record.failed is not None]
    seen = set(before) - set(again)
    yield from (before[key] for key in wanted if key in seen)
    if len(seen) == len(wanted):
        return
    _connect(ray, address, workers, gpus, cpus)
    try:
        work = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_work)
        values = config and config.model_dump(mode="json")
        recipe = (grid.model_dump(mode="json"), data, str(out), values, str(Path.cwd()))
        device = "cuda" if gpus else "cpu"
        pending = [work.remote(*recipe, device, again[number::workers], wait) for number in range(workers)]
        while pending:
            done, pending = ray.wait(pending, timeout=wait)
            yield from _new(log, wanted, seen, before)
            for one in done:
                _check(ray, one)
        yield from _new(log, wanted, seen, before)
    finally:
        ray.shutdown()


def _check(ray: Any, done: Any) -> None:
    """Raises here what went wrong there, as the sentence it is."""
    try:
        ray.get(done)
    except ClipAntidoteError as error:  # Ray's mixture of it and its own error has a stack trace for a message
        raise getattr(error, "cause", error) from None
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # not one of ours: it wants its stack trace
        raise ClipAntidoteError(
            f"a worker of Ray was lost {RETRIES + 1} times; what is done is kept, the same command goes on: {error}"
        ) from error


def _new(log: RunLog, wanted: list[Key], seen: set[Key], before: dict[Key, RunRecord]) -> Iterator[RunRecord]:
    """Records that came since; one that is made again counts once it differs from what was there before."""
    log.refresh()
    for key in wanted:
        record = log.runs.get(key)
        if record is not None and key not in seen and record is not before.get(key):
            seen.add(key)
            yield record


def _work(
    grid: dict[str, Any],
    data: str,
    out: str,
    config: dict[str, Any] | None,
    place: str,
    device: str,
    again: list[Key],
    wait: float,
) -> int:
    """What a worker does, in the folder that relative paths start from; gives the number of records it has seen."""
    try:
        os.chdir(place)
    except OSError as error:
        raise DataError(
            f"a worker on {platform.node()} has no folder {place}; start from one that all machines share"
        ) from error
    settings = None if config is None else CBPTConfig.build(config)
    recipe = GridConfig.build(grid)
    made = run_grid(recipe, data, Path(out), config=settings, device=device, retry=again, wait=wait)
    return sum(1 for _ in made)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UnsupportedError("workers need Ray; install it with: pip install 'clip-antidote[ray]'") from error
    return ray


def _connect(ray: Any, address: str, workers: int, gpus: float, cpus: float) -> None:
    """Starts Ray here, or joins a cluster.

    Raises:
        UsageError: There is none at the address.
    """
    if address == LOCAL:
        asked: dict[str, Any] = {"num_cpus": math.ceil(workers * cpus), "num_gpus": math.ceil(workers * gpus)}
    else:
        asked = {}
    try:
        ray.init(address=address, include_dashboard=False if address == LOCAL else None, log_to_driver=False, **asked)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"there is no Ray cluster at '{address}': {' '.join(str(error).split())[:200]}; give its address, or "
            f"'{LOCAL}' for this machine"
        ) from error
