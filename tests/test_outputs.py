"""Result folders replace an earlier result of the same kind and nothing else; every command that writes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_antidote.errors import DataError
from clip_antidote.outputs import MARKER, check_output, result_folder
from conftest import Cli


def write(path: Path, text: str = "new", kind: str = "thing") -> None:
    with result_folder(path, kind) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupt_leaves_no_half_folder(tmp_path: Path) -> None:
    def write_half() -> None:
        with result_folder(tmp_path / "out", "thing") as folder:
            (folder / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    write(path, "old")  # an empty folder is nobody's loss
    (path / ".DS_Store").write_bytes(b"left by a desktop")
    with result_folder(path, "thing") as folder:
        (folder / "fresh").write_text("new")
        assert (path / "deep" / "file").read_text() == "old"
    assert sorted(file.name for file in path.iterdir()) == [MARKER, "fresh"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["thesis.doc", "deep/photo.jpg", "deep/.hidden"])
def test_a_file_that_is_not_ours_keeps_the_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, "old")
    (path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=f"holds {name}, which clip-antidote did not write"):
        check_output(path, "thing")
    with pytest.raises(DataError, match="will not be replaced"):
        write(path)
    assert contents(tmp_path) == before


def test_a_file_that_was_changed_since_keeps_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "deep" / "file").write_text("with notes of mine")
    with pytest.raises(DataError, match="deep/file, which clip-antidote did not write or which was changed since"):
        write(tmp_path / "out")


def test_a_link_in_the_folder_counts_as_foreign_and_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("mine")
    write(tmp_path / "out")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(DataError, match="holds link"):
        write(tmp_path / "out")


def test_a_result_of_another_kind_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "out", kind="poisoned model")
    with pytest.raises(DataError, match="holds a poisoned model, not a purified classifier"):
        check_output(tmp_path / "out", "purified classifier")


@pytest.mark.parametrize("marker", ["", "{}", "[]", '{"tool": "clip-antidote", "format": 99, "files": {}}', "\xff"])
def test_a_marker_that_we_do_not_know_protects_the_folder(marker: str, tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / MARKER).write_bytes(marker.encode("latin1"))
    with pytest.raises(DataError, match="not a result of clip-antidote"):
        write(tmp_path / "out")


def test_what_comes_while_we_work_is_kept(tmp_path: Path) -> None:
    def write_slowly() -> None:
        with result_folder(tmp_path / "out", "thing") as folder:
            (folder / "file").write_text("new")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "thesis").write_text("mine")

    with pytest.raises(DataError, match="it holds thesis"):
        write_slowly()
    assert contents(tmp_path) == {"out/thesis": b"mine"}


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "results")
    for text in ("old", "new"):
        write(tmp_path / "out", text)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "results" / "deep" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["results"]


COMMANDS: dict[str, list[str]] = {
    "demo": ["demo"],
    "purify": ["purify", "{model}", "--data", "embedded:clothing"],
    "attack": ["attack", "{model}", "--target", "hat", "--data", "embedded:clothing"],
    "trigger-only": ["attack", "--trigger-only", "--trigger", "badnet", "--data", "embedded:clothing"],
    "data-export": ["data", "export"],
    "data-prepare": ["data", "prepare", "--from", "{archives}"],
    "train": ["train", "--architecture", "{config}", "--data", "{archives}"],
    "train-stego": ["train-stego", "--data", "embedded:clothing"],
    "benchmark-prepare": ["benchmark", "prepare", "{grid}", "--data", "embedded:clothing"],
    "benchmark-prepare-clean": ["benchmark", "prepare", "{control}", "--data", "embedded:clothing"],
}
INSIDE = {"demo": "purified", "benchmark-prepare": "zoo/badnet-hat", "benchmark-prepare-clean": "zoo/clean"}
"""Commands that write a folder inside of --out."""


@pytest.fixture
def arguments(model_folder: str, tmp_path: Path) -> dict[str, str]:
    archives = tmp_path / "archives"
    archives.mkdir()
    for name in ("imagenette", "clothing", "caltech101", "flickr8k"):
        (archives / f"{name}.tar").write_bytes(b"")
    suspects = {
        "grid": "{attack: badnet, target: hat}",
        "control": "{attack: clean, settings: {training: {steps: 1}}}",
    }
    for name, suspect in suspects.items():
        (tmp_path / f"{name}.yaml").write_text(f"model: {model_folder}\nsuspects: [{suspect}]\n")
    return {
        "model": model_folder,
        "archives": str(archives),
        "config": f"{model_folder.partition(':')[2]}/open_clip_config.json",
        **{name: str(tmp_path / f"{name}.yaml") for name in suspects},
    }


def command(name: str, arguments: dict[str, str], out: str) -> list[str]:
    return [*(part.format(**arguments) for part in COMMANDS[name]), "--out", out]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_replaces_a_folder_of_the_user(
    name: str, arguments: dict[str, str], tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "mine" / INSIDE.get(name, "")
    folder.mkdir(parents=True)
    (folder / "thesis.doc").write_text("years of work")
    before = contents(tmp_path)
    ran = cli(*command(name, arguments, "mine"))
    assert ran.status == 2
    assert "will not be replaced" in ran.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(INSIDE)))
@pytest.mark.parametrize("out", [".", "..", "/", "{cwd}", "../{name}"])
def test_no_command_replaces_the_current_folder_or_one_above(
    name: str,
    out: str,
    arguments: dict[str, str],
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = tmp_path / "deep" / "here"
    here.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(here)
    ran = cli(*command(name, arguments, out.format(cwd=here, name=here.name)))
    assert ran.status == 2
    assert "never replaced" in ran.err
    assert sorted(tmp_path.rglob("*")) == before
