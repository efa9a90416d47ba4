"""One output, one process: the second is refused with a sentence, and a killed one is in nobody's way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clip_antidote.benchmark.grid import GridConfig, SuspectConfig, all_runs, run_grid
from clip_antidote.benchmark.records import fingerprint
from clip_antidote.errors import DataError
from clip_antidote.jobs.workplace import workplace
from clip_antidote.locks import Claim, claimed
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.outputs import MARKER, result_folder, sole_output
from conftest import Cli, two_gate_classifier
from test_benchmark import FAST
from test_outputs import COMMANDS, INSIDE, arguments, command, contents

__all__ = ["arguments"]  # a fixture

HOLD = """
import sys
from pathlib import Path
from clip_antidote.locks import Claim, claimed
with claimed(Path(sys.argv[1])) as claim:
    assert claim is Claim.OURS
    print("held", flush=True)
    sys.stdin.read()
"""
WRITE = """
import os, signal, sys
from pathlib import Path
from clip_antidote.jobs.workplace import workplace
with workplace(Path(sys.argv[1]), "thing") as work:
    state = work.resume([1])
    state.mkdir(exist_ok=True)
    (state / ".training.pt.77.tmp").write_text("half")
    with work.result() as folder:
        (folder / "file").write_text("half")
        print("writing", flush=True)
        if sys.argv[2] == "replacing":
            os.replace = lambda a, b: (os.rename(a, b), os.kill(os.getpid(), signal.SIGKILL))
        else:
            sys.stdin.read()
"""
Other = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def other() -> Iterator[Other]:
    """Starts another process with a script, which goes on until its input is closed."""
    started = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        words = [sys.executable, "-c", script, *map(str, arguments)]
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_lock_keeps_others_off_and_leaves_no_file(tmp_path: Path, other: Other) -> None:
    file = tmp_path / "new" / ".lock"
    process = other(HOLD, file)
    with claimed(file) as claim:
        assert claim is Claim.TAKEN
    process.communicate("")
    assert not file.exists()
    with claimed(file) as claim:
        assert claim is Claim.OURS
        with claimed(file) as inner:
            assert inner is Claim.AGAIN
        found: list[Claim] = []

        def ask() -> None:
            with claimed(file) as seen:
                found.append(seen)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert found == [Claim.TAKEN], "another thread is another worker"
    assert list(file.parent.iterdir()) == []


def test_a_killed_process_leaves_no_lock_that_blocks(tmp_path: Path, other: Other) -> None:
    process = other(HOLD, tmp_path / ".lock")
    process.kill()
    process.wait()
    assert (tmp_path / ".lock").exists()
    with claimed(tmp_path / ".lock") as claim:
        assert claim is Claim.OURS


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_work_goes_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    half = tmp_path / ".out.1.tmp"
    half.write_text("of a process that may live")
    with result_folder(tmp_path / "out", "thing") as folder:
        (folder / "a").write_text("new")
    assert contents(tmp_path).keys() == {f"out/{MARKER}", "out/a", half.name}
    half.unlink()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with result_folder(tmp_path / "out", "thing") as folder:
        (folder / "b").write_text("newer")
    assert contents(tmp_path).keys() == {f"out/{MARKER}", "out/b"}


def test_a_second_run_is_refused_while_the_first_one_writes(tmp_path: Path, other: Other) -> None:
    out = tmp_path / "out"
    process = other(WRITE, out, "slowly")
    before = contents(tmp_path)
    for path in (out, tmp_path / "." / "out", tmp_path / "link"):
        if path.name == "link":
            path.symlink_to(out)
        with pytest.raises(DataError, match="another clip-antidote works on the output"), workplace(path, "thing"):
            pass
        with pytest.raises(DataError, match="another clip-antidote"), result_folder(path, "thing"):
            pass
    assert contents(tmp_path) == before
    process.communicate("")
    assert (out / "file").read_text() == "half"


@pytest.mark.parametrize("earlier", [False, True])
def test_what_a_killed_run_left_is_cleared_away(earlier: bool, tmp_path: Path, other: Other) -> None:
    out = tmp_path / "out"
    if earlier:
        with result_folder(out, "thing") as folder:
            (folder / "file").write_text("earlier")
    mine = {".out.notes.tmp": b"", ".out.1.tmp.txt": b"", ".outer.1.tmp": b"", ".out.1.old": b"no result"}
    for name, text in mine.items():
        (tmp_path / name).write_bytes(text)
    before = contents(tmp_path)
    for how in ("slowly", "replacing", "slowly", "replacing"):
        process = other(WRITE, out, how)
        if how == "slowly":
            process.kill()
        assert process.wait() == -signal.SIGKILL
        with sole_output(out, "thing"):
            pass
        left = {name: text for name, text in contents(tmp_path).items() if ".state-" not in name}
        if not earlier and how == "replacing":
            assert (out / "file").read_text() == "half", "it was killed when all was in place"
            return
        assert left == before, "the earlier result is back, and nothing half is left"
        with workplace(out, "thing") as work:
            state = work.resume([1])
            assert list(state.iterdir()) == []
            state.rmdir()


def test_a_file_that_another_process_exports_to_is_left_to_it(
    small_model: OpenCLIPEncoder, model_folder: str, tmp_path: Path, cli: Cli, other: Other
) -> None:
    two_gate_classifier(small_model).save_pretrained(tmp_path / "artefact")
    other(HOLD, tmp_path / ".out.onnx.lock")
    ran = cli("export", "artefact", "--model", model_folder, "--out", "out.onnx")
    assert ran.status == 2
    assert "another clip-antidote works on the output out.onnx" in ran.err
    for folder in (".", "..", "/", "artefact"):
        ran = cli("export", "artefact", "--model", model_folder, "--out", folder)
        assert ran.status == 2
        assert "is a folder" in ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_an_output_that_another_one_works_on(
    name: str, arguments: dict[str, str], tmp_path: Path, cli: Cli, other: Other
) -> None:
    place = tmp_path / "mine" / INSIDE.get(name, "")
    other(HOLD, place.with_name(f".{place.name}.lock"))
    before = contents(tmp_path)
    ran = cli(*command(name, arguments, "mine"))
    assert ran.status == 2
    assert "another clip-antidote works on the output" in ran.err
    assert contents(tmp_path) == before


def test_runs_of_a_grid_that_another_process_makes_are_left_to_it(
    model_folder: str, problem: str, tmp_path: Path, other: Other
) -> None:
    grid = GridConfig(
        model=model_folder,
        shots=1,
        suspects=(SuspectConfig(attack="clean", target="cat"),),
        defenses=("oracle",),
        seeds=(0, 1),
    )
    first, second = (run.key(1) for run in all_runs(grid))
    process = other(HOLD, tmp_path / "out" / ".locks" / fingerprint({"run": first}))
    records = run_grid(grid, problem, tmp_path / "out", config=FAST, wait=0.01)
    assert next(records).key == second
    process.kill()
    process.wait()
    assert next(records).key == first, "what the other one did not finish is made here"
    (tmp_path / "out" / ".locks" / "0123").touch()  # of a run that was killed when its record was written
    assert list(records) == []
    assert list((tmp_path / "out" / ".locks").iterdir()) == []
