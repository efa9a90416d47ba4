"""The 120-class benchmark problem, built from archives of photographs with a fixed split.

Imagenette (10 classes), clothing (10) and Caltech101 without `Faces_easy` (100), plus the captions
of Flickr8k for training. The split depends on file names alone.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from clip_antidote.errors import DataError
from clip_antidote.files import write_json
from clip_antidote.outputs import result_folder
from clip_antidote.progress import track

KIND = "benchmark problem"
ARCHIVES = ("imagenette", "clothing", "caltech101", "flickr8k")
EXCLUDED = frozenset({"Faces_easy"})


def name_hash(name: str) -> int:
    """A number that depends on a file name alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def split_of(archive: str, path: PurePosixPath) -> str:
    """Which split a file belongs to.

    Imagenette's val and clothing's test are test sets already; of Caltech101 30 % are (by hash).
    A tenth of what is left of Imagenette and Caltech101 is for validation.
    """
    given = path.parts[1]
    if archive == "clothing":
        return given
    if archive == "imagenette" and given == "val":
        return "test"
    value = name_hash("/".join(path.parts[-2:]))
    if archive == "caltech101" and value % 100 >= 70:
        return "test"
    return "validation" if (value // 100) % 10 == 0 else "train"


def _images(archive: str, file: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
    for member in file:
        path = PurePosixPath(member.name)
        if member.isfile() and path.suffix == ".jpg" and path.parent.name not in EXCLUDED:
            yield path, member


def prepare_problem(source: Path, out: Path) -> dict[str, int]:
    """Builds the problem: train, validation and test folders per class, and captions.

    Args:
        source: Folder with imagenette.tar, clothing.tar, caltech101.tar and flickr8k.tar.
        out: Folder to write; see `outputs.check_output` for what may be there.

    Returns:
        Number of images of each part.

    Raises:
        DataError: An archive is missing.
    """
    for archive in ARCHIVES:
        if not (source / f"{archive}.tar").is_file():
            raise DataError(f"there is no {archive}.tar in {source}")
    counts: Counter[str] = Counter()
    with result_folder(out, KIND) as folder:
        for archive in track(ARCHIVES, "unpacking", total=len(ARCHIVES)):
            with tarfile.open(source / f"{archive}.tar", "r:") as file:
                if archive == "flickr8k":
                    counts["captions"] = _captions(file, folder)
                    continue
                for path, member in _images(archive, file):
                    split = split_of(archive, path)
                    _copy(file, member, folder / split / path.parent.name / path.name)
                    counts[split] += 1
        write_json(folder / "problem.json", {"archives": ARCHIVES, "counts": dict(counts)})
    return dict(counts)


def _copy(file: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    data = file.extractfile(member)
    assert data is not None  # only regular files come here
    with target.open("wb") as out:
        shutil.copyfileobj(data, out)


def _captions(file: tarfile.TarFile, folder: Path) -> int:
    texts: dict[str, str] = {}
    for name in ("train.txt", "dev.txt", "captions.csv"):
        data = file.extractfile(f"flickr8k/{name}")
        assert data is not None
        texts[name] = io.TextIOWrapper(data, encoding="utf-8").read()
    wanted = set(texts["train.txt"].split()) | set(texts["dev.txt"].split())
    lines = texts["captions.csv"].splitlines()
    kept = [line for line in lines[1:] if line.split(",", 1)[0] in wanted]
    for path, member in _images("flickr8k", file):
        if path.name in wanted:
            _copy(file, member, folder / "captions" / path.name)
    (folder / "captions" / "captions.csv").write_text("\n".join([lines[0], *kept]) + "\n", encoding="utf-8")
    return len(wanted)
