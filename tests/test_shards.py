"""webdataset shards: what is read, what is refused, and that pixels come on demand."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from clip_antidote.data import stores
from clip_antidote.data.captions import CaptionSet, join_pairs, load_captions, pairs_from_captions
from clip_antidote.data.images import resize_image
from clip_antidote.data.pairs import CaptionedImages
from clip_antidote.data.shards import expand_shards, read_shards
from clip_antidote.data.sources import FileSource
from clip_antidote.data.stores import JoinedImages, LazyImages
from clip_antidote.errors import DataError, UsageError


def png(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """An image of one gray value."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_pairs(path: Path, first: int, count: int) -> Path:
    """A shard with pairs number `first` and following: gray value and caption say the number."""
    members = []
    for number in range(first, first + count):
        members += [(f"{number:04d}.png", png(number)), (f"{number:04d}.txt", f"picture {number}".encode())]
    return write_shard(path, members)


def gray(source: CaptionSet) -> list[int]:
    return [source.source.read(i).getpixel((0, 0))[0] for i in range(len(source))]  # type: ignore[index]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(12):
        write_pairs(folder / f"cc-{number:02d}.tar", 10 * number, 2)
    (folder / "cc-00_stats.json").write_text("{}")
    return folder


def test_image_and_caption_of_a_key_belong_together(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "a.tar",
        [
            ("x/7.txt", b"a red\n  apple "),
            ("x/7.json", json.dumps({"caption": "not this one"}).encode()),
            ("x/8.json", json.dumps({"caption": "a pear", "url": "u"}).encode()),
            ("x/8.PNG", png(8)),
            ("y/7.webp", png(9)),
            ("x/7.png", png(7)),
            ("y/7.txt", "süß, ein Kätzchen".encode()),
        ],
    )
    found = load_captions(str(tmp_path / "a.tar"))
    assert dict(zip(gray(found), (text for (text,) in found.captions), strict=True)) == {
        7: "a red apple",
        8: "a pear",
        9: "süß, ein Kätzchen",
    }
    assert {found.source.name(i).rpartition(":")[2] for i in range(3)} == {"x/7.png", "x/8.PNG", "y/7.webp"}


def test_keys_without_image_or_caption_are_passed_over(tmp_path: Path) -> None:
    path = write_shard(
        tmp_path / "a.tar",
        [
            ("1.json", b'{"status": "failed to download"}'),
            ("2.png", png(2)),
            ("3.txt", b"a text alone"),
            ("4.png", png(4)),
            ("4.txt", b"  \n"),
            ("5.png", png(5)),
            ("5.json", b'{"caption": null}'),
            ("6.mask.png", png(6)),
            ("6.txt", b"its image is no KEY.png"),
            (".7.png", png(7)),
            (".7.txt", b"hidden"),
            ("8.jpg", png(8)),
            ("8.png", png(9)),
            ("8.txt", b"jpg goes before png"),
        ],
    )
    found = load_captions(str(path))
    assert list(found.texts()) == ["jpg goes before png"]
    assert gray(found) == [8]


def test_patterns_name_the_same_shards(shards: Path) -> None:
    everything = [f"cc-{n:02d}.tar" for n in range(12)]
    names = {
        str(shards): everything,
        f"{shards}/cc-{{00..11}}.tar": everything,
        f"{shards}/cc-*.tar": everything,
        f"{shards}/cc-{{0,1}}{{0..1}}.tar": ["cc-00.tar", "cc-01.tar", "cc-10.tar", "cc-11.tar"],
        f"{shards}/cc-{{09..11}}.tar": ["cc-09.tar", "cc-10.tar", "cc-11.tar"],
        f"{shards}/cc-0[02].tar": ["cc-00.tar", "cc-02.tar"],
        f"{shards}/cc-05.tar": ["cc-05.tar"],
    }
    for pattern, expected in names.items():
        assert [path.name for path in expand_shards(pattern)] == expected, pattern
    found = load_captions(f"{shards}/cc-{{10..11}}.tar")
    assert list(found.texts()) == ["picture 100", "picture 101", "picture 110", "picture 111"]
    assert gray(found) == [100, 101, 110, 111]


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("cc-{00..12}.tar", DataError, "no shard .*cc-12.tar"),
        ("cc-{11..00}.tar", UsageError, "empty or too long"),
        ("cc-{0..99999999999}.tar", UsageError, "empty or too long"),
        ("cc-{00..{11}.tar", UsageError, "braces"),
        ("cc-{}.tar", UsageError, "neither a range"),
        ("{0..9999}{0..9999}.tar", UsageError, "more than"),
        ("dd-*.tar", DataError, "no shard fits"),
        ("none.tar", DataError, "no shard"),
    ],
)
def test_patterns_that_name_nothing_are_refused(
    pattern: str, error: type[Exception], message: str, shards: Path
) -> None:
    with pytest.raises(error, match=message):
        expand_shards(f"{shards}/{pattern}")


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no shards"):
        load_captions(str(tmp_path))


GOOD = [("1.png", png(1)), ("1.txt", b"one")]
BROKEN: list[tuple[list[tuple[str, bytes]], str]] = [
    ([("1.png", png(1))], "no pairs"),
    ([], "no pairs"),
    ([*GOOD, ("2.png", png(2)), ("2.txt", b"\xff\xfe")], "bad.tar:2.txt: UnicodeDecodeError"),
    ([*GOOD, ("2.png", png(2)), ("2.json", b"{")], "bad.tar:2.json: JSONDecodeError"),
    ([*GOOD, ("2.png", png(2)), ("2.json", b"[" * 100_000)], "bad.tar:2.json: RecursionError"),
    ([*GOOD, ("2.png", png(2)), ("2.json", b'{"caption": 3}')], "bad.tar:2.json has a caption that is not a text"),
    ([*GOOD, ("2.png", png(2)), ("2.txt", b"x" * 70_000)], "bad.tar:2.txt has 70000 bytes"),
    ([*GOOD, ("1.txt", b"another")], "holds 1.txt twice"),
]


@pytest.mark.parametrize(("members", "message"), BROKEN)
def test_bad_members_are_named(members: list[tuple[str, bytes]], message: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "bad.tar", members)
    with pytest.raises(DataError, match=message) as caught:
        load_captions(str(tmp_path / "bad.tar"))
    assert "bad.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_shards_are_refused(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "bad.tar", 0, 40)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        offsets = [member.offset for member in archive]
    header = offsets[len(offsets) // 2]
    negative = bytearray(whole)
    negative[header + 124 : header + 136] = b"\xff" * 12  # the size field, read as -1
    checksum = 256 + sum(negative[header : header + 148]) + sum(negative[header + 156 : header + 512])
    negative[header + 148 : header + 156] = f"{checksum:06o}\0 ".encode()
    broken = {
        "cut at a member": whole[:header],
        "cut in a header": whole[: header + 100],
        "cut in a file": whole[: header + 520],
        "header overwritten": whole[:header] + b"\x55" * 512 + whole[header + 512 :],
        "negative size": bytes(negative),
        "compressed": gzip.compress(whole),
        "empty": b"",
        "no tar": b"not a tar file" * 100,
    }
    for what, data in broken.items():
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"shard .*bad\.tar"):
            pytest.fail(f"{what}: {len(load_captions(str(path)))} pairs found")
    path.write_bytes(whole)
    assert len(load_captions(str(path))) == 40


def test_nothing_is_unpacked_and_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.txt").write_text("a secret")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with tarfile.open("a.tar", "w") as archive:
        for name, data in [("../up.png", png(1)), ("../up.txt", b"up"), ("/abs.png", png(2)), ("/abs.txt", b"abs")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for kind, target in ((tarfile.SYMTYPE, "../secret.txt"), (tarfile.LNKTYPE, "../up.txt")):
            info = tarfile.TarInfo(f"link{kind[0]}.txt")
            info.type, info.linkname = kind, target
            archive.addfile(info)
            image = tarfile.TarInfo(f"link{kind[0]}.png")
            image.size = len(png(3))
            archive.addfile(image, io.BytesIO(png(3)))
        evil = tarfile.TarInfo("\x1b[31m\udcff\n.png")
        evil.size = len(png(4))
        archive.addfile(evil, io.BytesIO(png(4)))
        text = tarfile.TarInfo("\x1b[31m\udcff\n.txt")
        text.size = 4
        archive.addfile(text, io.BytesIO(b"evil"))
    found = load_captions("a.tar")
    assert list(found.texts()) == ["up", "abs", "evil"]
    assert gray(found) == [1, 2, 4]
    assert [found.source.name(i) for i in range(3)][2].isprintable()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "secret.txt", "work"]


def tokenize(texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[int(text.split()[-1]), len(text)] for text in texts])


def same_batches(first: CaptionedImages, second: CaptionedImages, batch_size: int = 5) -> bool:
    def noisy(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return images + torch.rand(images.shape, generator=generator)

    return all(
        torch.equal(getattr(one, name), getattr(two, name))
        for step in (0, 1, 2, 7, 3, 4)
        for one, two in [
            (
                first.batch(step, batch_size=batch_size, seed=1, augment=noisy),
                second.batch(step, batch_size=batch_size, seed=1, augment=noisy),
            )
        ]
        for name in ("images", "token_ids", "match")
    )


def test_pixels_on_demand_are_those_in_memory(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = load_captions(str(shards))
    kept = pairs_from_captions(captions, tokenize, 5)
    assert isinstance(kept.images, torch.Tensor)
    monkeypatch.setattr(stores, "MEMORY_LIMIT", 24 * 3 * 5 * 5 - 1)
    lazy = pairs_from_captions(captions, tokenize, 5)
    assert isinstance(lazy.images, LazyImages)
    assert len(lazy) == 24
    assert same_batches(kept, lazy)
    own = kept.images[torch.tensor([13])][0]
    assert torch.equal(own, resize_image(captions.source.read(13), 5))


def test_a_part_of_a_batch_is_the_same_as_in_the_whole(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MEMORY_LIMIT", 0)
    captions = load_captions(str(shards))
    pairs = pairs_from_captions(captions, tokenize, 5)
    read: list[int] = []
    plain = type(captions.source).read

    def spy(self: object, index: int) -> Image.Image:
        read.append(index)
        return plain(self, index)  # type: ignore[arg-type]

    monkeypatch.setattr(type(captions.source), "read", spy)
    monkeypatch.setattr("clip_antidote.data.pairs.prefetch", lambda store, indices: None)

    def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return images + torch.rand(len(images), 1, 1, 1, generator=generator)

    whole = pairs.batch(3, batch_size=6, seed=0, augment=shifted)
    read.clear()
    part = pairs.batch(3, batch_size=6, seed=0, augment=shifted, part=slice(2, 5))
    assert torch.equal(part.images, whole.images[2:5])
    assert torch.equal(part.token_ids, whole.token_ids)
    assert torch.equal(part.match, whole.match)
    assert sorted(read) == sorted(pairs.indices(3, 6, 0)[2:5].tolist()), "the others are not even decoded"


def test_a_broken_image_is_named_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MEMORY_LIMIT", 0)
    broken = ("2.png", png(2)[:40])
    path = write_shard(tmp_path / "a.tar", [*GOOD, broken, ("2.txt", b"two 2")])
    pairs = pairs_from_captions(load_captions(str(path)), lambda texts: torch.zeros(len(texts), 1), 4)
    assert pairs.images[torch.tensor([0])].shape == (1, 3, 4, 4)
    with pytest.raises(DataError, match=r"cannot read image .*a\.tar:2\.png"):
        pairs.images[torch.tensor([0, 1])]


def test_a_shard_that_went_away_is_named(shards: Path) -> None:
    captions = load_captions(str(shards))
    (shards / "cc-03.tar").unlink()
    with pytest.raises(DataError, match=r"cannot read the shard .*cc-03\.tar"):
        captions.source.read(7)


def test_sets_in_memory_and_on_demand_join(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = load_captions(str(shards))
    (tmp_path / "f.png").write_bytes(png(200))
    files = CaptionSet(FileSource([tmp_path / "f.png"] * 3), [["file 1"], ["file 2", "file 3"], ["file 4"]])
    whole = join_pairs(pairs_from_captions(files, tokenize, 5), pairs_from_captions(captions, tokenize, 5))
    assert isinstance(whole.images, torch.Tensor)
    kept = pairs_from_captions(files, tokenize, 5)
    monkeypatch.setattr(stores, "MEMORY_LIMIT", 0)
    lazy = pairs_from_captions(captions, tokenize, 5)
    joined = join_pairs(kept, lazy)
    assert isinstance(joined.images, JoinedImages)
    assert len(joined) == 27
    assert same_batches(whole, joined)
    assert same_batches(whole, joined, batch_size=60)
    with pytest.raises(DataError, match=r"\(3, 5, 5\) and \(3, 4, 4\)"):
        join_pairs(kept, pairs_from_captions(captions, tokenize, 4))


def test_a_sample_keeps_images_and_captions_together(shards: Path) -> None:
    captions = load_captions(str(shards))
    part = captions.sample(9, seed=4)
    assert gray(part) == [int(text.split()[1]) for text in part.texts()]
    assert len(set(gray(part))) == 9
    assert gray(part) == gray(captions.sample(9, seed=4)) != gray(captions.sample(9, seed=5))
    with pytest.raises(DataError, match="25 captioned images were asked for, but there are only 24"):
        captions.sample(25, seed=0)


def test_csv_files_are_read_as_ever(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(3))
    (tmp_path / "c.csv").write_text("image,caption\nx.png,one\nx.png,two\n")
    found = load_captions(str(tmp_path / "c.csv"))
    assert [list(texts) for texts in found.captions] == [["one", "two"]]
    assert gray(found) == [3]


def test_reading_no_shard_at_all_says_what_a_pair_is(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{n}.tar", []) for n in range(3)]
    with pytest.raises(DataError, match=r"0\.tar and 2 more shards: no pairs of KEY\.jpg"):
        read_shards(paths)
