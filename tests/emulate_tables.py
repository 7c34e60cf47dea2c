"""Small tables for the tests of the emulators, and what to do when an emulator is missing."""

import importlib.util
import os
import shutil
import struct

import pytest

IN_CI = bool(os.environ.get("CI"))
HAS_UNICORN = importlib.util.find_spec("unicorn") is not None
HAS_QEMU = shutil.which("qemu-system-aarch64") is not None

# In CI a missing emulator fails the tests that need it.
needs_unicorn = pytest.mark.skipif(
    not HAS_UNICORN and not IN_CI, reason="no Unicorn: pip install 'ttbr[emulate]'"
)
needs_qemu = pytest.mark.skipif(
    not HAS_QEMU and not IN_CI, reason="no QEMU: apt-get install qemu-system-arm"
)

VALID_TABLE = 0b11
PAGE = 0x703  # AF, inner shareable, page
TCR_EL1 = 16 | 16 << 16 | 0b10 << 30 | 5 << 32  # 48 bits, 4K, both ranges; 48-bit output
TCR_EL2 = 1 << 31 | 1 << 23 | 16 | 5 << 16


class Tables:
    """4K tables in one block of memory at *base*, filled by hand."""

    def __init__(self, base: int, pages: int = 16) -> None:
        self.base = base
        self.memory = bytearray(pages << 12)
        self._next = base

    def new(self) -> int:
        """The PA of a fresh table."""
        self._next += 4096
        return self._next - 4096

    def set(self, table: int, index: int, descriptor: int) -> None:
        struct.pack_into("<Q", self.memory, table - self.base + 8 * index, descriptor)

    def get(self, table: int, index: int) -> int:
        at = table - self.base + 8 * index
        return int.from_bytes(self.memory[at : at + 8], "little")


def four_levels(base: int) -> tuple[Tables, dict[str, int]]:
    """A 48-bit map: VA 0x4000_0000 + 4K*i to PA 0x8000_0000 + 4K*i with AP[2:1] = i mod 4.

    VA 0x4020_0000 is invalid at level 2; VA 0x4040_0000 has its level 3 table where no memory is.
    """
    tables = Tables(base)
    root, level1, level2, level3 = (tables.new() for _ in range(4))
    tables.set(root, 0, level1 | VALID_TABLE)
    tables.set(level1, 1, level2 | VALID_TABLE)
    tables.set(level2, 0, level3 | VALID_TABLE)
    tables.set(level2, 2, 0x8000_0000_0000 | VALID_TABLE)
    for i in range(512):
        tables.set(level3, i, 0x8000_0000 + (i << 12) | (i & 3) << 6 | PAGE)
    registers = {
        "TTBR0_EL1": root,
        "TCR_EL1": TCR_EL1,
        "SCTLR_EL1": 1,
        "MAIR_EL1": 0xFF,
        "TTBR0_EL2": root,
        "TCR_EL2": TCR_EL2,
        "SCTLR_EL2": 1,
        "MAIR_EL2": 0xFF,
    }
    return tables, registers
