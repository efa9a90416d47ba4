"""Pages with marked tables."""

from __future__ import annotations

import re
from pathlib import Path

import claims  # noqa: F401 (its import registers a table)
import from_architectures  # noqa: F401
import from_benchmarks  # noqa: F401
import from_detection  # noqa: F401
import from_detectors  # noqa: F401
import from_field  # noqa: F401
import from_grid  # noqa: F401
import from_population  # noqa: F401
import from_registry  # noqa: F401
import from_scores  # noqa: F401
from source import TABLES, Records

MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(^<!-- /table -->$)", re.DOTALL | re.MULTILINE)


def filled(text: str, records: Records) -> str:
    """A page with every marked table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]](records)}\n{found[3]}", text)


def stale_pages(root: Path, *, write: bool) -> list[str]:
    """Names the pages whose tables differ from the records of the project, and writes them anew where asked."""
    records = Records(root / "docs" / "records")
    stale = []
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        old = page.read_text(encoding="utf-8")
        new = filled(old, records)
        if new != old:
            stale.append(str(page.relative_to(root)))
            if write:
                page.write_text(new, encoding="utf-8")
    return stale
