"""Classifiers on the Hugging Face Hub, without a network: what goes up, what is fetched, and only when asked for."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clip_antidote.errors import DataError, UnsupportedError, UsageError
from clip_antidote.models import DualEncoder
from clip_antidote.purification import hub
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.hub_card import with_license
from clip_antidote.triggers import load_trigger
from conftest import two_gate_classifier

huggingface_hub = pytest.importorskip("huggingface_hub")


@dataclass
class FakeHub:
    """A folder per repository, and what was asked of it."""

    root: Path
    asked: list[str] = field(default_factory=list)
    sizes: dict[str, int | None] = field(default_factory=dict)

    def upload(self, **given: Any) -> str:
        self.asked.append("upload")
        self.given = given
        target = self.root / given["repo_id"]
        target.mkdir(parents=True, exist_ok=True)
        for file in Path(given["folder_path"]).rglob("*"):
            name = file.relative_to(given["folder_path"])
            if file.is_file() and not any(fnmatch.fnmatch(str(name), p) for p in given["ignore_patterns"] or ()):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / name)
        return f"hub/{given['repo_id']}/commit/1"

    def info(self, repo: str, *, files_metadata: bool) -> Any:
        assert files_metadata
        self.asked.append("info")
        if not (self.root / repo).is_dir():
            raise huggingface_hub.errors.RepositoryNotFoundError("404\nno such [red]repository", response=Response())
        files = [file for file in sorted((self.root / repo).rglob("*")) if file.is_file()]
        names = {file.relative_to(self.root / repo).as_posix(): file.stat().st_size for file in files}
        siblings = [SimpleNamespace(rfilename=name, size=self.sizes.get(name, size)) for name, size in names.items()]
        return SimpleNamespace(siblings=siblings, sha="1234")

    def snapshot(self, repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        self.asked.append("snapshot")
        assert revision == "1234", "what was looked at is what is fetched"
        place = self.root / "cache" / repo
        for name in allow_patterns:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / repo / name, place / name)
        return str(place)


class Response:
    """As much of a response as the Hub's errors look at."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
    status_code = 404


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The Hub as a folder; every connection is an error."""
    made = FakeHub(tmp_path / "hub")

    def refuse(*args: object) -> None:
        raise AssertionError("tests have no network")

    def create(_: Any, *, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
        made.asked.append(f"create private={private}")
        return SimpleNamespace(repo_id=repo_id)

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", made.upload)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", made.info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot)
    return made


@pytest.fixture
def head(small_model: DualEncoder) -> PurifiedCLIP:
    small_model.spec = "open_clip:RN50@/home/somebody/secret/suspect.pt"
    return two_gate_classifier(small_model, {"badnet-0": load_trigger("badnet")})


def test_what_goes_up_comes_down(head: PurifiedCLIP, fake: FakeHub) -> None:
    address = head.push_to_hub("me/clothes", private=True, branch="dev", commit_message="New", license_name="mit")
    assert address == "hub/me/clothes/commit/1"
    assert fake.asked == ["create private=True", "upload"]
    assert (fake.given["revision"], fake.given["commit_message"]) == ("dev", "New")
    repo = fake.root / "me" / "clothes"
    names = sorted(file.relative_to(repo).as_posix() for file in repo.rglob("*") if file.is_file())
    assert names == [
        "README.md",
        "classifier.safetensors",
        "config.json",
        "guard.safetensors",
        "prompts.safetensors",
        "triggers/badnet-0/trigger.json",
    ], "no pickle"
    texts = [(repo / name).read_text() for name in names if not name.endswith("safetensors")]
    assert all("secret" not in text for text in texts)
    for name in ("evil.pt", "model.safetensors", "triggers[x]", "triggers/*", "deep/classifier.safetensors"):
        (repo / name).parent.mkdir(exist_ok=True)
        (repo / name).write_bytes(b"never fetched")
    loaded = PurifiedCLIP.from_pretrained("hf-hub:me/clothes", model=head.model)
    fetched = [file for file in (fake.root / "cache").rglob("*") if file.is_file()]
    assert sorted(file.name for file in fetched) == sorted(Path(name).name for name in names)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (loaded.predict_proba(images) == head.predict_proba(images)).all()
    assert loaded.record == head.record
    assert list(loaded.triggers) == ["badnet-0"]


def test_the_card_is_what_the_hub_reads(head: PurifiedCLIP, fake: FakeHub) -> None:
    head.model.spec = "hf-hub:org/suspect"
    head.push_to_hub("me/clothes", license_name="mit")
    card = huggingface_hub.ModelCard((fake.root / "me" / "clothes" / "README.md").read_text())
    fields = card.data.to_dict()
    assert fields["license"] == "mit"
    assert fields["base_model"] == "org/suspect"
    assert fields["pipeline_tag"] == "zero-shot-image-classification"
    assert fields["library_name"] == "clip-antidote"
    assert "model-index" not in fields, "nothing was measured"
    assert 'from_pretrained("hf-hub:me/clothes"' in card.text
    assert "**This form has no gate and no second look**" in card.text


def test_a_card_goes_with_its_head_alone(head: PurifiedCLIP, fake: FakeHub, tmp_path: Path) -> None:
    head.save_pretrained(tmp_path / "own")
    assert not (tmp_path / "own" / "README.md").exists()
    (tmp_path / "own" / "README.md").write_text('---\nlicense: unknown\n---\nCA 77 %, "path/to/this/folder"\n')
    loaded = PurifiedCLIP.from_pretrained(tmp_path / "own", model=head.model)
    loaded.push_to_hub("me/kept", license_name="cc0-1.0")
    kept = (fake.root / "me" / "kept" / "README.md").read_text()
    assert kept == '---\nlicense: cc0-1.0\n---\nCA 77 %, "hf-hub:me/kept"\n'
    loaded.save_pretrained(tmp_path / "again")
    assert "CA 77 %" in (tmp_path / "again" / "README.md").read_text()
    loaded.with_threshold(0.1).push_to_hub("me/moved")
    assert "Nothing was measured for this card" in (fake.root / "me" / "moved" / "README.md").read_text()
    loaded.second_look = False
    assert loaded.card is None


def test_nothing_is_fetched_unasked(
    head: PurifiedCLIP, fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.push_to_hub("me/clothes")
    monkeypatch.chdir(tmp_path)
    fake.asked.clear()
    with pytest.raises(UsageError, match=r"no folder me/clothes; for .* write hf-hub:me/clothes, or allow_download"):
        PurifiedCLIP.from_pretrained("me/clothes", model=head.model)
    for path in ("nowhere", "./me/clothes", "/me/clothes", "a/b/c", "../me/clothes"):
        with pytest.raises(DataError, match="is not a purified classifier"):
            PurifiedCLIP.from_pretrained(path, model=head.model, allow_download=True)
    head.save_pretrained(Path("me") / "folder")
    assert PurifiedCLIP.from_pretrained("me/folder", model=head.model, allow_download=True).classes == head.classes
    assert not fake.asked, "a folder of that name comes first"
    assert PurifiedCLIP.from_pretrained("me/clothes", model=head.model, allow_download=True).classes == head.classes
    assert fake.asked == ["info", "snapshot"]


def test_the_model_that_a_fetched_artefact_names_is_not_followed(head: PurifiedCLIP, fake: FakeHub) -> None:
    head.model.spec = "hf-hub:evil/model"
    head.push_to_hub("me/clothes")
    with pytest.raises(UsageError, match="names the model 'hf-hub:evil/model', which is not on this machine"):
        PurifiedCLIP.from_pretrained("hf-hub:me/clothes")


def test_what_is_too_large_or_none_is_not_fetched(
    head: PurifiedCLIP, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.push_to_hub("me/clothes")
    fake.asked.clear()
    for size in (hub.LARGEST, None):
        fake.sizes["prompts.safetensors"] = size
        with pytest.raises(DataError, match="larger than a purified classifier can be; nothing was fetched"):
            PurifiedCLIP.from_pretrained("hf-hub:me/clothes")
    fake.sizes.clear()
    monkeypatch.setattr(hub, "MOST", 3)
    with pytest.raises(DataError, match="nothing was fetched"):
        PurifiedCLIP.from_pretrained("hf-hub:me/clothes")
    (fake.root / "me" / "clothes" / "classifier.safetensors").unlink()
    with pytest.raises(DataError, match="holds no purified classifier"):
        PurifiedCLIP.from_pretrained("hf-hub:me/clothes")
    with pytest.raises(DataError, match=r"fetch .* me/gone .*RepositoryNotFoundError.*check its name") as caught:
        PurifiedCLIP.from_pretrained("hf-hub:me/gone")
    assert "\n" not in str(caught.value)
    assert "snapshot" not in fake.asked


@pytest.mark.parametrize("name", ["", "me", "me/", "/x", "a/b/c", "me/../x", "me/x y", "me/x?y", "..", "me/é"])
def test_odd_names_ask_for_nothing(name: str, head: PurifiedCLIP, fake: FakeHub) -> None:
    for use in (head.push_to_hub, lambda text: PurifiedCLIP.from_pretrained(f"hf-hub:{text}")):
        with pytest.raises(UsageError, match="does not name a repository"):
            use(name)
    assert not fake.asked


def test_odd_licenses_and_failed_uploads(head: PurifiedCLIP, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is no license"):
        head.push_to_hub("me/clothes", license_name="mit\nbase_model: x")

    def fail(*args: object, **given: object) -> None:
        raise OSError("401\nUnauthorized")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", fail)
    with pytest.raises(DataError, match=r"cannot upload the classifier me/clothes .*hf auth login"):
        head.push_to_hub("me/clothes")


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("# A\nlicense: x\n", "---\nlicense: mit\n---\n\n# A\nlicense: x\n"),
        ("---\n---\n# A\n", "---\nlicense: mit\n---\n# A\n"),
        ("---\ntags: [a]\nlicense: x\n---\nlicense: x\n", "---\nlicense: mit\ntags: [a]\n---\nlicense: x\n"),
    ],
)
def test_a_license_comes_into_every_header(card: str, wanted: str) -> None:
    assert with_license(card, "mit") == wanted


def test_without_the_package_there_is_a_sentence(head: PurifiedCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (head.push_to_hub, lambda name: PurifiedCLIP.from_pretrained(f"hf-hub:{name}")):
        with pytest.raises(UnsupportedError, match=r"pip install 'clip-antidote\[hub\]'"):
            use("me/clothes")
