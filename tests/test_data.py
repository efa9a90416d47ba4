from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from clip_antidote.data.classes import read_classes
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages, resize_image
from clip_antidote.data.sources import TarSource, TensorSource
from clip_antidote.errors import DataError


def save_image(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def make_tree(root: Path, folders: dict[str, int]) -> Path:
    """Makes class folders of so many gray images; no two images of a tree are alike."""
    value = 0
    for folder, count in folders.items():
        for index in range(count):
            save_image(root / folder / f"{index}.png", value)
            value += 1
    return root


def names(images: LabelledImages) -> list[str]:
    return [Path(images.source.name(i)).name for i in range(len(images))]


def test_classes_and_files_are_sorted_and_underscores_are_spaces(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.PNG"):
        save_image(tmp_path / "t_shirt" / name, 1)
    save_image(tmp_path / "hat" / "z.png", 2)
    (tmp_path / "hat" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    images = load_images(tmp_path)
    assert images.classes == ("hat", "t shirt")
    assert images.labels.tolist() == [0, 1, 1, 1]
    assert names(images) == ["z.png", "a.jpg", "b.png", "c.PNG"]


def test_class_file_sets_order_names_and_selection(tmp_path: Path) -> None:
    make_tree(tmp_path / "data", {"n01": 2, "n02": 1, "t_shirt": 1})
    classes = tmp_path / "classes.txt"
    classes.write_text("# my classes\nt_shirt\n\nn01 = tench\n", encoding="utf-8")
    assert read_classes(classes) == [("t_shirt", "t shirt"), ("n01", "tench")]
    images = load_images(tmp_path / "data", classes=classes)
    assert images.classes == ("t shirt", "tench")
    assert images.labels.tolist() == [0, 1, 1]
    same = load_images(tmp_path / "data", classes=[("T shirt", "t shirt"), ("n01", "tench")])
    assert names(same) == names(images)


def test_splits_are_found_by_name(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", {"a": 3, "b": 3})
    make_tree(tmp_path / "val", {"a": 1, "b": 1})
    assert len(load_images(tmp_path)) == 6
    assert len(load_images(tmp_path, split="validation")) == 2
    assert len(load_images(tmp_path, split="test")) == 2  # a val folder is the test set of many data sets


def test_missing_and_unknown_splits_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", {"a": 1, "b": 1})
    with pytest.raises(DataError, match="no test split"):
        load_images(tmp_path, split="test")
    with pytest.raises(DataError, match="unknown split 'dev'"):
        load_images(tmp_path, split="dev")


def test_csv_paths_are_relative_to_the_csv(tmp_path: Path) -> None:
    for index, name in enumerate(("x", "y", "z")):
        save_image(tmp_path / "img" / f"{name}.png", 10 * index)
    table = tmp_path / "list.csv"
    table.write_text("image,label\nimg/x.png,red_hat\nimg/y.png,coat\nimg/z.png,red_hat\n", encoding="utf-8")
    images = load_images(table)
    assert images.classes == ("coat", "red hat")
    assert names(images) == ["y.png", "x.png", "z.png"]
    assert images.tensor(4)[:, 0, 0, 0].tolist() == [10, 0, 20]


@pytest.mark.parametrize(
    ("text", "message"),
    [("file,label\nx.png,a\n", "needs the columns"), ("image,label\nx.png,a\ny.png\n", "line 3"), ("", "columns")],
)
def test_broken_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "list.csv")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_images(tmp_path / "nothing")


def test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "x.png", 1)
    with pytest.raises(DataError, match="no class folders"):
        load_images(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two"):
        load_images(make_tree(tmp_path, {"only": 2}))


@pytest.mark.parametrize("folders", [("a_b", "a b"), ("Hat", "hat_")])
def test_folders_that_read_as_one_class_are_refused(tmp_path: Path, folders: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="duplicate class name"):
        load_images(make_tree(tmp_path, dict.fromkeys(folders, 1)))


def test_ambiguous_folders_are_refused_with_a_class_list_too(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a_b": 1, "a b": 1, "c": 1})
    with pytest.raises(DataError, match="several folders"):
        load_images(tmp_path, classes=[("a_b", "first"), ("c", "second")])
    assert load_images(make_tree(tmp_path, {"d": 1}), classes=[("c", "c"), ("d", "d")]).classes == ("c", "d")


def test_folder_named_twice_in_a_class_list_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(DataError, match="folder 'a' twice"):
        load_images(tmp_path, classes=[("a", "first"), ("a", "second")])


def test_class_without_images_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="no images of the class 'c'"):
        load_images(tmp_path)
    with pytest.raises(DataError, match="no images of the class 'd'"):
        load_images(tmp_path, classes=[("a", "a"), ("d", "d")])


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n# only a comment\n", "is empty"), ("a\nA\n", "duplicate"), ("a\n", "at least two")],
)
def test_broken_class_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_missing_class_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the class file"):
        read_classes(tmp_path / "classes.txt")


def test_shots_depend_on_the_seed_alone(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 12, "b": 15})
    drawn = load_images(tmp_path, shots=4, seed=3)
    assert drawn.labels.bincount().tolist() == [4, 4]
    assert len(set(drawn.tensor(4)[:, 0, 0, 0].tolist())) == 8  # without replacement
    assert names(drawn) == names(load_images(tmp_path, shots=4, seed=3))
    assert names(drawn) != names(load_images(tmp_path, shots=4, seed=4))


def test_too_few_images_for_the_shots_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": 5, "b": 2})
    with pytest.raises(DataError, match="class 'b' has 2 images, fewer than the 3 shots"):
        load_images(tmp_path, shots=3)
    with pytest.raises(DataError, match="at least 1"):
        load_images(tmp_path, shots=0)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_corrupt_image_is_named(tmp_path: Path, content: bytes | str) -> None:
    make_tree(tmp_path, {"a": 1, "b": 1})
    broken = tmp_path / "b" / "broken.png"
    if isinstance(content, str):
        save_image(broken, 3, (64, 64))
        content = broken.read_bytes()[:60]
    broken.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png"):
        load_images(tmp_path).tensor(4)


def test_batches_are_the_images_in_order(tmp_path: Path) -> None:
    images = load_images(make_tree(tmp_path, {"a": 3, "b": 2}))
    parts = list(images.batches(4, batch_size=2))
    assert [len(labels) for _, labels in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part for part, _ in parts]), images.tensor(4).float() / 255)
    assert torch.equal(torch.cat([labels for _, labels in parts]), images.labels)


def test_subset_of_a_subset() -> None:
    values = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 4, 4)
    images = LabelledImages(TensorSource(values), torch.arange(6), tuple("abcdef"))
    part = images.subset([5, 3, 1]).subset([2, 0])
    assert part.labels.tolist() == [1, 5]
    assert part.tensor(4)[:, 0, 0, 0].tolist() == [1, 5]
    assert part.source.name(1) == "image 5"
    assert part.names == ["image 1", "image 5"]
    assert images.without(part).labels.tolist() == [0, 2, 3, 4]
    assert not len(part.without(images))


def test_labels_must_fit_the_images() -> None:
    with pytest.raises(DataError, match="2 images but 3 labels"):
        LabelledImages(TensorSource(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), torch.zeros(3).long(), ("a", "b"))


def test_tar_members_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for value in (7, 8, 9):
            data = io.BytesIO()
            Image.new("RGB", (5, 5), (value, value, value)).save(data, "PNG")
            info = tarfile.TarInfo(f"{value}.png")
            info.size = data.tell()
            data.seek(0)
            archive.addfile(info, data)
    source = TarSource(tmp_path / "shard.tar", ["9.png", "7.png"])
    assert [source.read(i).getpixel((0, 0)) for i in range(len(source))] == [(9, 9, 9), (7, 7, 7)]


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(97, 61), (40, 133), (50, 50), (31, 30)])
def test_resize_equals_open_clip(shape: tuple[int, int], mode: str) -> None:
    pixels = np.random.default_rng(random.Random(str(shape)).randrange(2**31)).integers(0, 256, (*shape, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    theirs = image_transform(
        48, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize_mode=mode, interpolation="bicubic"
    )
    assert torch.equal(resize_image(image, 48, mode=mode).float() / 255, theirs(image))
