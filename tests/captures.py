"""The captures that the tests read: all of them where they are at hand, else those shipped.

``TTBR_CAPTURES`` names the directory; without it ``../shared/captures`` beside the checkout, and
last the few in ``examples/captures``.
"""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ttbr.memory import Image, RegisterFile, open_image, read_registers

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "examples" / "captures"


def directory() -> Path:
    """The directory of captures in use."""
    named = os.environ.get("TTBR_CAPTURES")
    if named:
        return Path(named)
    beside = ROOT.parent / "shared" / "captures"
    return beside if beside.is_dir() else SHIPPED


def complete() -> bool:
    """Whether the full set is at hand, not only the shipped ones."""
    return directory() != SHIPPED


@dataclass(frozen=True)
class Moment:
    """One moment of a boot: a folder with tables, registers and the CPU's answers."""

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def image(self) -> Image:
        return open_image(self.path / "tables.elf.gz")

    @cached_property
    def registers(self) -> RegisterFile:
        return read_registers(self.path / "state.json")

    @cached_property
    def state(self) -> dict[str, Any]:
        """The whole of ``state.json``."""
        with open(self.path / "state.json") as file:
            return cast("dict[str, Any]", json.load(file))

    def rows(self, file: str) -> Iterator[list[str]]:
        """The rows of a gzip-compressed table, comments left out."""
        with gzip.open(self.path / file, "rt") as lines:
            for line in lines:
                if not line.startswith("#"):
                    yield line.rstrip("\n").split("\t")


def moments(file: str = "tables.elf.gz") -> list[Moment]:
    """All moments that have *file*, in order."""
    return [Moment(path.parent) for path in sorted(directory().glob(f"*/*/{file}"))]


def boots(file: str) -> list[Path]:
    """All boots that have *file*."""
    return [path.parent for path in sorted(directory().glob(f"*/{file}"))]
