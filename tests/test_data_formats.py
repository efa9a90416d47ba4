"""The forms of labelled images: miniatures of each, made from the embedded photographs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clip_antidote.data.classes import read_classes
from clip_antidote.data.folders import load_images, load_test_images
from clip_antidote.data.formats import form_of
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError, UnsupportedError
from clip_antidote.prompts.templates import load_templates
from conftest import Cli
from test_shards import write_shard

CLASSES = ("dress", "hat", "long sleeve")
EACH = 2


@pytest.fixture
def photos_of(train_images: LabelledImages) -> Callable[[int, int], bytes]:
    """Photograph number i of the class with a label, as the bytes of a PNG of 32 pixels."""

    def png(label: int, number: int) -> bytes:
        rows = (train_images.labels == label).nonzero().flatten()
        buffer = io.BytesIO()
        train_images.source.read(int(rows[number])).resize((32, 32)).save(buffer, "PNG")
        return buffer.getvalue()

    return png


Photos = Callable[[int, int], bytes]


def rows_of(photos: Photos, first: int = 0) -> list[tuple[str, int, str, bytes]]:
    """Name of the file, number and name of the class, content: `EACH` photographs of each class."""
    return [
        (f"{label}_{number}.png", label, name, photos(label, number))
        for label, name in enumerate(CLASSES)
        for number in range(first, first + EACH)
    ]


def files(folder: Path, rows: list[tuple[str, int, str, bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, _, content in rows:
        (folder / name).write_bytes(content)


def same(images: LabelledImages, rows: list[tuple[str, int, str, bytes]]) -> None:
    """The images are these, with these classes."""
    assert images.classes == CLASSES
    assert images.labels.tolist() == [label for _, label, _, _ in rows]
    for index, (_, _, _, content) in enumerate(rows):
        assert images.source.read(index).tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()
    assert len({images.source.name(index) for index in range(len(images))}) == len(rows)


# One maker per form: (train, test) into a folder; returns the path to give to --data.


def shards_numbered(folder: Path, train: list[Any], test: list[Any]) -> str:
    for split, rows in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        for number in range(2):  # keys end at the first dot, and number-by-number order crosses the shards
            members = []
            for name, label, _, content in rows[number * 3 : number * 3 + 3]:
                key = name.removesuffix(".png")
                members += [(f"{key}.png", content), (f"{key}.cls", f"{label}\n".encode())]
            write_shard(folder / split / f"{number}.tar", members)
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    return str(folder)


def shards_named(folder: Path, train: list[Any], test: list[Any]) -> str:
    for split, rows in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        members = []
        for name, _, text, content in rows:
            key = name.removesuffix(".png")
            members += [(f"{key}.png", content), (f"{key}.json", json.dumps({"label": text, "x": 1}).encode())]
        members.append(("alone.txt", b"no image"))
        write_shard(folder / split / "all.tar", members)
    return str(folder)


def coop(folder: Path, train: list[Any], test: list[Any]) -> str:
    files(folder / "images" / "a", train)
    files(folder / "images" / "b", test)
    (folder / "annotations").mkdir()
    lists = {
        "train": [[f"a/{name}", label, text.replace(" ", "_")] for name, label, text, _ in train],
        "val": [],
        "test": [[f"b/{name}", label, text.replace(" ", "_")] for name, label, text, _ in test],
    }
    (folder / "split_zhou_Clothes.json").write_text(json.dumps(lists))
    return str(folder)


def metadata_csv(folder: Path, train: list[Any], test: list[Any]) -> str:
    for split, rows in (("train", train), ("test", test)):
        files(folder / split / "images", rows)
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "caption", "label"])
            writer.writerows([f"images/{name}", "a, b", text] for name, _, text, _ in rows)
    return str(folder)


def metadata_jsonl(folder: Path, train: list[Any], test: list[Any]) -> str:
    """One table for both splits."""
    lines = []
    for split, rows in (("train", train), ("test", test)):
        files(folder / split, rows)
        lines += [json.dumps({"file_name": f"{split}/{name}", "label": text}) for name, _, text, _ in rows]
    (folder / "metadata.jsonl").write_text("\n".join([*lines, ""]))
    return str(folder)


def parquet(folder: Path, train: list[Any], test: list[Any]) -> str:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    for split, rows in (("train", train), ("test", test)):
        images = [{"bytes": content, "path": name} for name, _, _, content in rows]
        table = pa.table({"image": images, "label": [label for _, label, _, _ in rows]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
    return str(folder)


def folders(folder: Path, train: list[Any], test: list[Any]) -> str:
    for split, rows in (("train", train), ("test", test)):
        for name, _, text, content in rows:
            files(folder / split / text.replace(" ", "_"), [(name, 0, text, content)])
    return str(folder)


MAKERS = {
    shards_numbered: "shards",
    shards_named: "shards",
    coop: "coop",
    metadata_csv: "metadata",
    metadata_jsonl: "metadata",
    parquet: "parquet",
    folders: "folders",
}


@pytest.mark.parametrize(("make", "form"), MAKERS.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_every_form_gives_the_same_images(make: Any, form: str, photos_of: Photos, tmp_path: Path) -> None:
    train, test = rows_of(photos_of), rows_of(photos_of, first=EACH)
    path = make(tmp_path / "data", train, test)
    assert form_of(path) == form
    same(load_images(path), train)
    same(load_images(path, split="test"), test)
    same(load_test_images(path), test)
    drawn = load_images(path, shots=1, seed=3)
    assert drawn.labels.tolist() == [0, 1, 2]
    some = load_images(path, classes=[("hat", "a cap"), ("dress", "gown")])
    assert some.classes == ("a cap", "gown")
    assert some.labels.bincount().tolist() == [2, 2]
    with pytest.raises(DataError, match="no images of the class 'shoes'"):
        load_images(path, classes=[("hat", "hat"), ("shoes", "shoes")])
    with pytest.raises(DataError, match="no validation split"):
        load_images(path, split="validation")


def test_single_files_and_patterns_of_shards(photos_of: Photos, tmp_path: Path) -> None:
    rows = rows_of(photos_of)
    path = shards_numbered(tmp_path / "data", rows, rows)
    same(load_images(f"{path}/test/{{0..1}}.tar"), rows)
    same(load_test_images(f"{path}/test/*.tar"), rows)
    half = load_images(f"{path}/test/0.tar")
    assert half.classes == CLASSES, "a class that the names have is an answer, whether it is shown or not"
    assert half.labels.tolist() == [0, 0, 1]
    file = coop(tmp_path / "coop", rows, rows)
    same(load_images(f"{file}/split_zhou_Clothes.json"), rows)


def test_numbers_are_named_by_the_class_list(photos_of: Photos, tmp_path: Path) -> None:
    rows = rows_of(photos_of)
    path = shards_numbered(tmp_path / "data", rows, rows)
    (tmp_path / "data" / "classnames.txt").unlink()
    with pytest.raises(DataError, match="numbers its classes; name them by --classes"):
        load_images(path)
    (tmp_path / "names.json").write_text(json.dumps({"clothes": list(CLASSES), "other": ["x", "y"]}))
    same(load_images(path, classes=tmp_path / "names.json#clothes"), rows)
    with pytest.raises(DataError, match="the label 2, but there are names for 2 classes"):
        load_images(path, classes=tmp_path / "names.json#other")


IMAGENET = {"n01440764": "dress", "n01443537": "hat", "n01484850": "long sleeve", "n01491361": "tiger shark"}


def imagenet(folder: Path, rows: list[Any], names: list[str]) -> str:
    for name, label, text, content in rows:
        files(folder / names[label], [(name, label, text, content)])
    return str(folder)


def test_folders_by_wordnet_id_take_their_classes_from_the_list(photos_of: Photos, tmp_path: Path) -> None:
    rows = rows_of(photos_of)
    path = imagenet(tmp_path / "imagenet-a", rows, list(IMAGENET))
    (tmp_path / "classes.txt").write_text("".join(f"{wnid} = {name}\n" for wnid, name in IMAGENET.items()))
    index = {str(number): [wnid, name.replace(" ", "_")] for number, (wnid, name) in enumerate(IMAGENET.items())}
    (tmp_path / "imagenet_class_index.json").write_text(json.dumps(index))
    for file in ("classes.txt", "imagenet_class_index.json"):
        same(load_images(path, classes=tmp_path / file), rows)
    with pytest.raises(DataError, match=r"named by WordNet ids.*'n01440764 = name'"):
        load_images(path, classes=[("dress", "dress"), ("hat", "hat")])


def test_the_list_of_all_of_imagenet_that_the_page_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    index = {str(number): [f"n{number:08d}", "crane"] for number in range(1000)}
    Path("imagenet_class_index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="duplicate class name 'crane'"):
        read_classes(Path("imagenet_class_index.json"))
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    exec(page.split("```python\n")[1].split("```")[0], {})
    pairs = read_classes(Path("imagenet.txt"))
    assert len(pairs) == 1000
    assert (pairs[0], pairs[744], pairs[836]) == (
        ("n00000000", "tench"),
        ("n00000744", "projectile"),
        ("n00000836", "sunglass"),
    )


def test_numbered_folders_are_places_in_the_list(photos_of: Photos, tmp_path: Path) -> None:
    """As ImageNet-V2 has them; sorted as texts, 10 would come before 2."""
    rows = rows_of(photos_of)
    path = imagenet(tmp_path / "v2", rows, ["0", "2", "10"])
    names = [f"class {number}" for number in range(11)]
    names[0], names[2], names[10] = CLASSES
    same(load_images(path, classes=[(name, name) for name in names]), rows)
    assert load_images(path).classes == ("0", "10", "2"), "without a list they are names, as ever"
    with pytest.raises(DataError, match="a folder 10, but the class list has 3 classes"):
        load_images(path, classes=[(name, name) for name in CLASSES])
    told = load_images(path, classes=[("0", "dress"), ("2", "hat"), ("10", "long sleeve")])
    same(told, rows)


def test_class_and_template_files_of_clip_benchmark(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("sea horse\ndog\n")
    (tmp_path / "en_classnames.json").write_text(json.dumps({"pets": ["sea horse", "dog"], "cars": ["a", "b"]}))
    (tmp_path / "list.json").write_text(json.dumps(["sea_horse", "dog"]))
    expected = ["sea horse", "dog"]
    for name in ("classnames.txt", "en_classnames.json#pets", "list.json"):
        assert [text for _, text in read_classes(tmp_path / name)] == expected
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n{c}\n")
    (tmp_path / "en_templates.json").write_text(json.dumps({"pets": ["a photo of a {c}.", "{c}"], "cars": ["{c}!"]}))
    for name in ("zeroshot_classification_templates.txt", "en_templates.json#pets"):
        assert load_templates(tmp_path / name) == ("a photo of a {}.", "{}")
    for read in (read_classes, load_templates):
        for key, said in (("", "has 2 lists; name one, like"), ("#x", "no list 'x'; it has pets")):
            with pytest.raises(DataError, match=said):
                read(tmp_path / f"en_classnames.json{key}")
    for content, said in (("{", "JSONDecodeError"), ('{"a": 3}', "no list of texts"), ("[1]", "no list of texts")):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(DataError, match=said):
            read_classes(tmp_path / "broken.json")


OUTSIDE = ["../secret.png", "/etc/secret.png", "a/../../secret.png", "C:\\secret.png", "..\\secret.png", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_path_leads_out_of_the_dataset(name: str, photos_of: Photos, tmp_path: Path) -> None:
    rows = rows_of(photos_of)
    files(tmp_path, [("secret.png", 0, "", rows[0][3])])
    path = Path(coop(tmp_path / "coop", rows, rows))
    lists = json.loads((path / "split_zhou_Clothes.json").read_text())
    lists["train"][3][0] = name
    (path / "split_zhou_Clothes.json").write_text(json.dumps(lists))
    table = Path(metadata_jsonl(tmp_path / "meta", rows, rows)) / "metadata.jsonl"
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    lines[1]["file_name"] = name
    table.write_text("\n".join(map(json.dumps, lines)))
    for where in (path, table.parent):
        with pytest.raises(DataError, match="outside of its folder") as caught:
            load_images(where)
        assert "\n" not in str(caught.value)


def broken(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


ROW = '{"file_name": "a.png", "label": "hat"}'
BROKEN: dict[str, tuple[str, bytes | str, str]] = {
    "no split": ("split_zhou_X.json", "[1]", "none of CoOp's splits"),
    "no rows": ("split_zhou_X.json", '{"train": [1]}', "not \\[path, number, class name\\]"),
    "no number": ("split_zhou_X.json", '{"train": [["a", true, "b"]]}', "not \\[path, number, class name\\]"),
    "two names": ("split_zhou_X.json", '{"train": [["a", 0, "b"], ["a", 0, "c"]]}', "both 'b' and 'c'"),
    "no images": ("split_zhou_X.json", '{"train": [["a", 0, "b"], ["a", 1, "c"]]}', "neither in its folder"),
    "deep": ("split_zhou_X.json", "[" * 100_000, "as JSON \\(RecursionError\\)"),
    "no object": ("metadata.jsonl", f"{ROW}\n3\n", "line 2 of .* no JSON object"),
    "no label": ("metadata.jsonl", f'{ROW}\n{{"file_name": "b.png"}}\n', "row 2 of .* lacks file_name or a label"),
    "bytes": (
        "metadata.csv",
        b"file_name,label\n\xff\xfe,1\n",
        "metadata.csv \\(UnicodeDecodeError\\)",
    ),
    "mixed": ("metadata.jsonl", f'{ROW}\n{{"file_name": "b.png", "label": 1}}\n', "some labels .* are numbers"),
    "one class": ("metadata.jsonl", f"{ROW}\n", "has 1 class; a classifier needs at least two"),
    "no shard": ("a.tar", b"no tar", "cannot read the shard"),
    "no parquet": ("a.parquet", b"PAR1no", "cannot read .* as parquet|parquet files need pyarrow"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_wrong_input_is_one_sentence(case: str, tmp_path: Path, cli: Cli) -> None:
    name, content, said = BROKEN[case]
    broken(tmp_path / "data" / name, content)
    with pytest.raises((DataError, UnsupportedError), match=said) as caught:
        load_images(tmp_path / "data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.png", b"x"), ("a.cls", b"\xff")], "cannot read the label"),
        ([("a.png", b"x"), ("a.cls", b"7" * 2000)], "more than a label can have"),
        ([("a.png", b"x"), ("a.json", b'{"label": [1]}')], "neither a number nor a name"),
        ([("a.png", b"x"), ("a.txt", b"a caption")], "no KEY"),
        ([("a.png", b"x"), ("a.cls", b"1"), ("a.cls", b"2")], "twice"),
        ([("a.png", b"x"), ("a.cls", b"-1")], "has 1 class"),
    ],
)
def test_wrong_labels_in_shards_are_one_sentence(members: list[tuple[str, bytes]], said: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=said):
        load_images(tmp_path / "a.tar")


def test_a_table_of_captions_leaves_class_folders_as_they_are(photos_of: Photos, tmp_path: Path) -> None:
    rows = rows_of(photos_of)
    path = folders(tmp_path / "data", rows, rows)
    (tmp_path / "data" / "metadata.csv").write_text("file_name,text\ntrain/hat/1_0.png,a hat\n")
    assert form_of(path) == "folders"
    same(load_images(path), rows)


def test_a_command_takes_every_form(photos_of: Photos, tmp_path: Path, cli: Cli, model_folder: str) -> None:
    rows = rows_of(photos_of)
    expected = cli("evaluate", model_folder, "--data", folders(tmp_path / "plain", rows, rows), "--json", "a.json")
    assert expected.status == 0
    wanted = json.loads(Path("a.json").read_text())
    for make in (shards_numbered, coop, metadata_csv):
        path = make(tmp_path / make.__name__, rows, rows)
        assert cli("evaluate", model_folder, "--data", path, "--json", "b.json").status == 0
        found = json.loads(Path("b.json").read_text())
        assert {**found, "data": wanted["data"]} == wanted


def test_hugging_faces_own_library_sees_the_same(photos_of: Photos, tmp_path: Path) -> None:
    """Its `imagefolder` reads our miniature as we do, and its schema of parquet files names our classes."""
    datasets = pytest.importorskip("datasets")
    rows = rows_of(photos_of)
    path = metadata_csv(tmp_path / "meta", rows, rows)
    theirs = datasets.load_dataset("imagefolder", data_dir=path, split="train", cache_dir=str(tmp_path / "cache"))
    ours = load_images(path)
    assert theirs["label"] == [ours.classes[label] for label in ours.labels.tolist()]
    for index, image in enumerate(theirs["image"]):
        assert image.convert("RGB").tobytes() == ours.source.read(index).tobytes()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    images = [{"bytes": content, "path": name} for name, _, _, content in rows]
    (tmp_path / "hub" / "data").mkdir(parents=True)
    columns = {"image": images, "label": [label for _, label, _, _ in rows]}
    made = pytest.importorskip("pyarrow").table(columns, schema=features.arrow_schema)
    pytest.importorskip("pyarrow.parquet").write_table(made, tmp_path / "hub/data/train-00000-of-00001.parquet")
    same(load_images(tmp_path / "hub"), rows)
