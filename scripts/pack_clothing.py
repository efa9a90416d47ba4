"""Packs the clothing photographs (CC0) for the package: 92 px JPEG in one tar, reproducible.

python scripts/pack_clothing.py CLOTHING_TAR src/clip_antidote/assets/clothing
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from PIL import Image

SIDE, QUALITY = 92, 80


def main(source: Path, out: Path) -> None:
    """Writes clothing.tar and LICENSE to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with (
        tarfile.open(source) as archive,
        tarfile.open(out / "clothing.tar", "w", format=tarfile.USTAR_FORMAT) as pack,
    ):
        members = sorted((m for m in archive if m.isfile()), key=lambda member: member.name)
        for member in members:
            file = archive.extractfile(member)
            assert file is not None
            if Path(member.name).name == "LICENSE":
                (out / "LICENSE").write_bytes(file.read())
                continue
            if not member.name.endswith(".jpg"):
                continue
            image = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
            split, label = Path(member.name).parts[1:3]
            number = Path(member.name).name
            info = tarfile.TarInfo(f"{split}/{label}/{number}")
            info.size = buffer.tell()
            buffer.seek(0)
            pack.addfile(info, buffer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
