"""Watches an interpreter from its start, where the slow tier starts a fresh one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if "FUZZ_HOME" in os.environ:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from watch import record

    sys.path.pop(0)
    record(Path(os.environ["FUZZ_HOME"]), os.open(os.environ["FUZZ_EVENTS"], os.O_WRONLY | os.O_APPEND))
