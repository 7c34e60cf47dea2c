"""Listings of mappings: one line a run, and the summary of a tree."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from ttbr.arch.attributes import PW, PX, UR, UW, UX, is_device
from ttbr.arch.geometry import size_text
from ttbr.report.words import leaf_text
from ttbr.walk.iterate import Run, TableCount, Unreadable

__all__ = ["FILTERS", "Summary", "line", "lines"]

# What `--only` can ask of a run.
FILTERS: dict[str, Callable[[Run], bool]] = {
    "writable": lambda run: bool(run.leaf.permissions & (PW | UW)),
    "executable": lambda run: bool(run.leaf.permissions & (PX | UX)),
    "wx": lambda run: _writable_and_executable(run),
    "user": lambda run: bool(run.leaf.permissions & (UR | UW)),
    "device": lambda run: is_device(run.leaf.attr),
    "contiguous": lambda run: run.leaf.contiguous,
    "block": lambda run: run.leaf.level < 3,
}


def _writable_and_executable(run: Run) -> bool:
    mask = run.leaf.permissions
    return bool(mask & (PW | UW) and mask & (PX | UX))


def line(item: Run | Unreadable) -> str:
    """``0x..-0x..  2M  L2  PA 0x..  rw- Normal WB ISH`` (the end is excluded)."""
    size = size_text(item.size)
    head = f"0x{item.va:016x}-0x{item.va + item.size & (1 << 64) - 1:016x} {size:>8}"
    if isinstance(item, Unreadable):
        return f"{head}  L{item.level}  !! {item.reason} (table {item.table:#x})"
    leaf = item.leaf
    text = f"{head}  L{leaf.level}  {leaf.output:#014x}  {leaf_text(leaf)}"
    if item.leaf2 is not None:
        text += f"  => PA {item.leaf2.output:#x} {leaf_text(item.leaf2)}"
    return text


def lines(items: Iterable[Run | Unreadable]) -> Iterator[str]:
    """One line an item."""
    return (line(item) for item in items)


class Summary:
    """Adds up the runs that pass through `count`: leaves and bytes by leaf size, problems."""

    def __init__(self) -> None:
        self.tables = TableCount()
        self.leaves: Counter[tuple[int, int]] = Counter()
        self.unreadable = 0
        self.shown = 0

    def count(self, items: Iterable[Run | Unreadable]) -> Iterator[Run | Unreadable]:
        """The same items, counted."""
        for item in items:
            if isinstance(item, Unreadable):
                self.unreadable += 1
            else:
                leaf = item.leaf
                self.leaves[leaf.level, leaf.shift] += item.size >> leaf.shift
            yield item

    def plain(self) -> dict[str, object]:
        """The numbers as plain values."""
        return {
            "tables": len(self.tables.tables),
            "table_bytes": self.tables.table_bytes,
            "leaves": [
                {"level": level, "leaf_size": 1 << shift, "count": n, "bytes": n << shift}
                for (level, shift), n in sorted(self.leaves.items())
            ],
            "mapped_bytes": sum(n << shift for (_, shift), n in self.leaves.items()),
            "unreadable": self.unreadable,
        }

    def text(self) -> str:
        """The numbers in two or three lines."""
        tables = len(self.tables.tables)
        mapped = sum(n << shift for (_, shift), n in self.leaves.items())
        sizes = ", ".join(
            f"{n} x {size_text(1 << shift)}" for (_, shift), n in sorted(self.leaves.items())
        )
        text = (
            f"{tables} tables ({size_text(self.tables.table_bytes)}), "
            f"{sum(self.leaves.values())} leaves map {size_text(mapped)}"
        )
        if sizes:
            text += f": {sizes}"
        if self.unreadable:
            text += f"; {self.unreadable} parts unreadable"
        return text
