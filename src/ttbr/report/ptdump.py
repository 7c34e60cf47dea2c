"""Listings in the form of the kernel's ``/sys/kernel/debug/kernel_page_tables``.

Made to be diffed against a running kernel's: neighbours with the same level and attribute bits are
one line, whatever their output address. `BITS` is the kernel's table of attribute columns (mask,
value, text if equal, text if not), as arm64 Linux 6.1 has it; the memory type column goes by the
attribute *index*, whose Linux meaning does not depend on MAIR (arch/arm64/include/asm/memory.h).
"""

from collections.abc import Iterable, Iterator

from ttbr.arch.regime import WalkParams
from ttbr.walk.iterate import Hole, Run, Unreadable

__all__ = ["ptdump"]

# (mask, value, text when equal, text otherwise); a text of None leaves no column.
BITS: tuple[tuple[int, int, str, str | None], ...] = (
    (1, 1, " ", "F"),
    (1 << 6, 1 << 6, "USR", "   "),
    (1 << 7, 1 << 7, "ro", "RW"),
    (1 << 53, 1 << 53, "NX", "x "),
    (3 << 8, 3 << 8, "SHD", "   "),
    (1 << 10, 1 << 10, "AF", "  "),
    (1 << 11, 1 << 11, "NG", "  "),
    (1 << 52, 1 << 52, "CON", "   "),
    (2, 2, "   ", "BLK"),
    (1 << 54, 1 << 54, "UXN", "   "),
    (1 << 50, 1 << 50, "GP", "  "),
    (7 << 2, 3 << 2, "DEVICE/nGnRnE", None),
    (7 << 2, 4 << 2, "DEVICE/nGnRE", None),
    (7 << 2, 2 << 2, "MEM/NORMAL-NC", None),
    (7 << 2, 0 << 2, "MEM/NORMAL", None),
    (7 << 2, 1 << 2, "MEM/NORMAL-TAGGED", None),
)
# The columns of FEAT_LPA2 kernels have no SHD: bits 9:8 are output address.
_SHARED = BITS[4]
_NAMES = {-1: "PGD", 0: "P4D", 1: "PUD", 2: "PMD", 3: "PTE"}


def _level_name(p: WalkParams, level: int) -> str:
    """The kernel's name of a level: the root is the PGD, missing levels are folded into it."""
    return "PGD" if level == p.start_level else _NAMES[level]


def _attributes(run: Run) -> tuple[str, ...]:
    d = run.leaf.descriptor
    rows = [row for row in BITS if run.leaf.params.sh is None or row is not _SHARED]
    texts = (equal if d & mask == value else other for mask, value, equal, other in rows)
    return tuple(text for text in texts if text is not None)


def _line(start: int, end: int, level: str, attributes: tuple[str, ...]) -> str:
    size, units = end - start >> 10, "KMGTPE"
    while not size & 1023 and len(units) > 1:
        size, units = size >> 10, units[1:]
    text = " ".join((level, *attributes))
    end &= (1 << 64) - 1
    return f"0x{start:016x}-0x{end:016x}   {size:9}{units[0]} {text}"


def ptdump(p: WalkParams, items: Iterable[Run | Hole | Unreadable]) -> Iterator[str]:
    """The lines of a listing; *items* are of `ttbr.walk.runs` with holes."""
    start = end = 0
    last: tuple[str, tuple[str, ...]] | None = None
    what: tuple[str, tuple[str, ...]]
    for item in items:
        if isinstance(item, Unreadable):
            what = (_level_name(p, item.level), (f"-- {item.reason} --",))
        else:
            level = item.level if isinstance(item, Hole) else item.leaf.level
            what = (_level_name(p, level), _attributes(item) if isinstance(item, Run) else ())
        if last is not None and what == last and item.va == end:
            end += item.size
            continue
        if last is not None:
            yield _line(start, end, *last)
        start, end, last = item.va, item.va + item.size, what
    if last is not None:
        yield _line(start, end, *last)
