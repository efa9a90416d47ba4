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
    if archive in ("clothing", "imagenette") and given not in ("train", "validation", "val", "test"):
        raise DataError(f"the archive {archive}.tar has images of a split '{given}', which it should not")
    if archive == "clothing":
        return given
    if archive == "imagenette" and given == "val":
        return "test"
    value = name_hash("/".join(path.parts[-2:]))
    if archive == "caltech101" and value % 100 >= 70:
        return "test"
    return "validation" if (value // 100) % 10 == 0 else "train"


def _images(archive: str, file: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
    size = Path(str(file.name)).stat().st_size
    for member in file:
        path = PurePosixPath(member.name)
        if ".." in path.parts or path.is_absolute():
            raise DataError(f"the archive {file.name!s} names {member.name}, outside of itself; it is not opened")
        if member.offset_data + member.size > size:
            raise DataError(f"the archive {file.name!s} is cut off inside {member.name}; copy it again")
        whole = member.isreg() and not member.issparse() and len(path.parts) > 2
        if whole and path.suffix == ".jpg" and path.parent.name not in EXCLUDED:
            yield path, member


def prepare_problem(source: Path, out: Path) -> dict[str, int]:
    """Builds the problem: train, validation and test folders per class, and captions.

    Args:
        source: Folder with imagenette.tar, clothing.tar, caltech101.tar and flickr8k.tar.
        out: Folder to write; see `outputs.check_output` for what may be there.

    Returns:
        Number of images of each part.

    Raises:
        DataError: An archive is missing, damaged, or names what lies outside of it.
    """
    for archive in ARCHIVES:
        if not (source / f"{archive}.tar").is_file():
            raise DataError(f"there is no {archive}.tar in {source}")
    counts: Counter[str] = Counter()
    with result_folder(out, KIND) as folder:
        for archive in track(ARCHIVES, "unpacking", total=len(ARCHIVES)):
            file = source / f"{archive}.tar"
            try:
                counts.update(_unpack(archive, file, folder))
            except (tarfile.TarError, EOFError, ValueError, LookupError, AttributeError, RecursionError) as error:
                raise DataError(
                    f"cannot read the archive {file} ({type(error).__name__}); copy or download it again"
                ) from error
        write_json(folder / "problem.json", {"archives": ARCHIVES, "counts": dict(counts)})
    return dict(counts)


def _unpack(archive: str, path: Path, folder: Path) -> Counter[str]:
    """Copies the images of an archive into their splits and returns the number in each."""
    counts: Counter[str] = Counter()
    with tarfile.open(path, "r:") as file:
        if archive == "flickr8k":
            counts["captions"] = _captions(file, folder)
        else:
            for image, member in _images(archive, file):
                split = split_of(archive, image)
                _copy(file, member, folder / split / image.parent.name / image.name)
                counts[split] += 1
    if not counts.total():
        raise DataError(f"the archive {path} has no images where they are expected; copy or download it again")
    return counts


def _copy(file: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if target.exists():
        raise DataError(f"the archive {file.name!s} holds {member.name} twice; copy or download it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    data = file.extractfile(member)
    assert data is not None  # only regular files come here
    with target.open("wb") as out:
        shutil.copyfileobj(data, out)


def _captions(file: tarfile.TarFile, folder: Path) -> int:
    texts: dict[str, str] = {}
    for name in ("train.txt", "dev.txt", "captions.csv"):
        data = file.extractfile(f"flickr8k/{name}")
        if data is None:
            raise DataError(f"flickr8k/{name} of the archive {file.name!s} is not a file; copy or download it again")
        texts[name] = io.TextIOWrapper(data, encoding="utf-8").read()
    wanted = set(texts["train.txt"].split()) | set(texts["dev.txt"].split())
    lines = texts["captions.csv"].splitlines()
    kept = [line for line in lines[1:] if line.split(",", 1)[0] in wanted]
    found = set()
    for path, member in _images("flickr8k", file):
        if path.name in wanted:
            _copy(file, member, folder / "captions" / path.name)
            found.add(path.name)
    if wanted - found or not kept:
        missing = min(wanted - found, default="captions")
        raise DataError(f"the archive {file.name!s} lacks {missing}; copy or download it again")
    (folder / "captions" / "captions.csv").write_text("\n".join([lines[0], *kept]) + "\n", encoding="utf-8")
    return len(wanted)
