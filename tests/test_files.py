from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clip_antidote.benchmark.store import write_lines
from clip_antidote.errors import DataError
from clip_antidote.files import atomic_path, sha256_file, write_json, write_tensors


def test_file_appears_under_its_name_on_success_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert list(path.parent.iterdir()) == [path]


def test_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def write_below(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("text")


def test_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*out\.txt.*choose another output folder"):
        write_below(tmp_path / "file" / "out.txt")
    with pytest.raises(DataError, match="cannot write"):
        write_below(tmp_path / "file" / "deeper" / "out.txt")
    assert (tmp_path / "file").read_text() == "in the way"


def test_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_below(tmp_path / "out")
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("old")
    (tmp_path / "link").symlink_to("deep/file")
    write_below(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "file").read_text() == "text"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "file", "link"]
    (tmp_path / "folder").symlink_to("deep")
    with pytest.raises(DataError, match="is a folder"):
        write_below(tmp_path / "folder")
    assert (tmp_path / "folder").is_symlink()


def test_what_is_no_file_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"cannot write .*pipe"):
        write_below(pipe)  # and not waited for: nobody reads it
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_below(pipe)
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
    with (tmp_path / "kept").open("w+") as file:
        write_below(Path(f"/dev/fd/{file.fileno()}"))
        assert (tmp_path / "kept").read_text() == "text"
        assert os.path.samestat(os.fstat(file.fileno()), (tmp_path / "kept").stat()), "still the same file"
    write_below(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_json_is_readable_text(tmp_path: Path) -> None:
    value = {"name": "façade", "rates": [0.5, None]}
    write_json(tmp_path / "report.json", value)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "façade" in text
    assert text.endswith("}\n")


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def test_records_with_half_a_character_are_written_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    write_lines(file, {"a\ud800": {"spec": "\ud800"}})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a\ud800": {"spec": "\ud800"}}


def test_tensors_may_be_read_by_whom_new_files_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    write_tensors(tmp_path / "a.safetensors", {"a": torch.arange(3)}, metadata={"b": "c"})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [0, 1, 2]
    write_tensors(tmp_path / "a.safetensors", {"a": torch.arange(2)})
    assert len(load_file(tmp_path / "a.safetensors")["a"]) == 2


def test_tensors_are_written_however_they_lie_in_memory(tmp_path: Path) -> None:
    weights = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    write_tensors(tmp_path / "a.safetensors", {"a": weights})
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
