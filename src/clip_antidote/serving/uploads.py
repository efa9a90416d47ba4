"""Uploads: they lie in a folder of our own until they are read, which is at once, and are deleted then."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from clip_antidote.errors import DataError
from clip_antidote.files import remove_quietly

_GONE = "the upload is not there any more; drop the image again"


class Uploads:
    """A private temporary folder for uploads, removed by `close`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="clip-antidote-uploads-")).resolve()

    def take(self, said: Any, most: int) -> tuple[bytes, str]:
        """Reads an upload and deletes it.

        Args:
            said: What the browser says of the upload: a mapping with "path", which is not believed.
            most: Bytes it may have.

        Returns:
            Its bytes and its name.

        Raises:
            DataError: It is no upload, is gone, or is too large.
        """
        try:
            path = Path(str(said["path"])).resolve()
            inside = self.folder in path.parents and path.is_file()
        except (TypeError, KeyError, ValueError, OSError, RuntimeError) as error:
            raise DataError(_GONE) from error
        if not inside:
            raise DataError(_GONE)
        try:
            with path.open("rb") as file:
                data = file.read(most + 1)
        except OSError as error:
            raise DataError(_GONE) from error
        finally:
            remove_quietly(self.folder / path.relative_to(self.folder).parts[0])
        if len(data) > most:
            raise DataError(f"the upload is larger than {most / 10**6:g} MB; scale the image down")
        return data, path.name

    def sweep(self, age: float) -> None:
        """Deletes what nobody asked about for `age` seconds."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            try:
                old = time.time() - path.lstat().st_mtime > age
            except OSError:
                continue
            if old:
                remove_quietly(path)

    def close(self) -> None:
        """Deletes all uploads and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
