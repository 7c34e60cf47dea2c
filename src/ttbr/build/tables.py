"""Built tables: the root, the memory that holds them, and the registers that go with them."""

from dataclasses import dataclass
from typing import NamedTuple

from ttbr.arch.features import Features
from ttbr.arch.regime import WalkParams
from ttbr.build.arena import Arena
from ttbr.build.mair import Mair
from ttbr.build.params import features_of_params, regime_name, registers_of
from ttbr.build.plan import Estimate
from ttbr.memory.segments import SegmentMemory
from ttbr.record import replace

__all__ = ["Root", "TableSet", "Tables"]


class Root(NamedTuple):
    """A root of *size* bytes at *address*; *name* is its symbol where tables are written out."""

    name: str
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class TableSet:
    """What is written out together: all tables of *arena*, its *roots*, and named *values*."""

    arena: Arena
    roots: tuple[Root, ...]
    values: dict[str, int]

    @property
    def page_count(self) -> int:
        """Pages that the tables take; a smaller root counts as one."""
        page = self.arena.granule.size
        return sum(-(-segment.size // page) for segment in self.arena.segments)

    @property
    def first(self) -> int:
        """The lowest address of a table."""
        return self.arena.segments[0].address


class Tables:
    """One tree of tables in an arena.

    `root` is its address. `estimate` has the tables by level, None for tables made by hand.
    The memory is the arena's: other trees built there are in it too, as a root over several trees
    needs.
    """

    def __init__(
        self, params: WalkParams, mair: Mair, arena: Arena, estimate: Estimate | None = None
    ) -> None:
        self._params = params
        self.mair = mair
        self.arena = arena
        self.estimate = estimate

    @property
    def root(self) -> int:
        return self._params.root

    @property
    def params(self) -> WalkParams:
        """How to walk them. MAIR is as allocated by now, also for the other half of the regime."""
        if self._params.stage == 2:
            return self._params
        return replace(self._params, mair=self.mair.value)

    @property
    def counts(self) -> dict[int, int]:
        """Tables by level; empty for tables made by hand."""
        return {} if self.estimate is None else self.estimate.tables

    @property
    def regime_name(self) -> str:
        return regime_name(self._params)

    @property
    def registers(self) -> dict[str, int]:
        """TTBR, TCR or VTCR, MAIR, SCTLR (and HCR where it matters) by their Arm names."""
        return registers_of(self.params)

    @property
    def features(self) -> Features:
        """Features under which `registers` read back into equal parameters."""
        return features_of_params(self._params)

    @property
    def table_set(self) -> TableSet:
        """All tables of the arena with this root and its registers."""
        root = Root("root", self.root, self.params.root_size)
        return TableSet(self.arena, (root,), self.registers)

    def memory(self) -> SegmentMemory:
        """The tables as memory for a walk."""
        return self.arena.memory()

    def pages(self) -> dict[int, bytes]:
        """Address -> bytes, a page (or a smaller root) each."""
        page = self.arena.granule.size
        found = {}
        for segment in self.arena.segments:
            for at in range(0, segment.size, page):
                start = segment.offset + at
                data = segment.data[start : start + min(page, segment.size - at)]
                found[segment.address + at] = bytes(data)
        return found
