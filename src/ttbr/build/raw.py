"""Tables made by hand: a root that refers to itself, a root over several trees, odd shapes."""

from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import WalkParams
from ttbr.build.arena import Arena
from ttbr.build.attributes import Attributes, encode
from ttbr.build.mair import Mair
from ttbr.build.params import root_alignment
from ttbr.build.plan import CONTIGUOUS
from ttbr.build.tables import Tables
from ttbr.errors import InvalidError
from ttbr.record import replace

__all__ = ["RawTables"]

_KIND = 0b11


class RawTables:
    """Entries placed by hand, in an arena that may hold built tables too.

    *params* give granule, output form and regime; their root is ignored.
    """

    def __init__(self, params: WalkParams, arena: Arena, mair: Mair | None = None) -> None:
        self.params = params
        self.arena = arena
        self.mair = mair or Mair.given(params.mair)

    def new_table(self) -> int:
        """The address of a fresh table, all entries invalid."""
        return self.arena.new_table()

    def new_root(self) -> int:
        """The address of a fresh root of the size and alignment that the parameters ask for."""
        return self.arena.new_table(self.params.root_size, root_alignment(self.params))

    def get(self, table: int, index: int) -> int:
        """Descriptor *index* of *table*."""
        return self.arena.load(table + 8 * index)

    def set(self, table: int, index: int, descriptor: int) -> None:
        """Write any *descriptor*."""
        if index < 0 or not 0 <= descriptor < 1 << 64:
            raise InvalidError(f"entry {index}: descriptor {descriptor:#x} does not fit")
        self.arena.store(table + 8 * index, descriptor)

    def set_table(self, table: int, index: int, next_table: int, extra: int = 0) -> None:
        """Let entry *index* of *table* refer to *next_table*; *extra* are bits 63:59."""
        if next_table & 0x3F:
            raise InvalidError(f"table {next_table:#x} is not aligned")
        self.set(table, index, self.params.form.place(next_table) | extra | 0b11)

    def set_leaf(
        self,
        table: int,
        index: int,
        level: int,
        pa: int,
        attributes: Attributes | int,
        contiguous: bool = False,
    ) -> None:
        """A block or page at *level*; *attributes* may be descriptor bits, taken as they are."""
        g, form = self.params.granule, self.params.form
        if level != LAST_LEVEL and not g.may_be_block(level, form.wide):
            raise InvalidError(f"level {level} has no blocks with the {g.name} granule")
        if pa & (g.entry_size(level) - 1):
            raise InvalidError(f"pa {pa:#x} is not aligned to a level {level} leaf")
        if isinstance(attributes, int):
            bits = attributes & ~_KIND | (0b11 if level == LAST_LEVEL else 0b01)
        else:
            bits = encode(attributes, self.params, self.mair, level)
        self.set(table, index, form.place(pa) | bits | (CONTIGUOUS if contiguous else 0))

    def tables(self, root: int) -> Tables:
        """The tree under *root*, with the registers that go with it."""
        if root & (root_alignment(self.params) - 1):
            raise InvalidError(f"root {root:#x} is not aligned to {root_alignment(self.params):#x}")
        return Tables(replace(self.params, root=root), self.mair, self.arena)
