"""Random tables, and the moves that random programs are made of.

Code is seen at its ID map (CODE) and at a second address (RUN); the tables are identity mapped, so
that programs can store to them; the data may be mapped this way or that, or not at all.
"""

from dataclasses import dataclass
from random import Random

from switch_tables import CONT, NG, RO, UXN, Arena, block, page, tcr1, tcr2

__all__ = ["CODE", "DATA", "MAIR", "PAS", "RUN", "TABLES", "Moves", "Root"]

TABLES = 0x6000_0000
CODE = 0x8001_0000
RUN = 0x40_0001_0000
DATA = 0x40_2000_0000
HIGH_DATA = 0xFFFF_FFC0_2000_0000
PAS = (0xA000_0000, 0xC000_0000)
BIG_PA = 0x1_2000_0000
MAIR = 0x00_44_FF
PXN, NT = 1 << 53, 1 << 16
USER = 1 << 6
_TG = {"4K": (0, 2), "16K": (2, 1), "64K": (1, 3)}
_BITS = {"4K": (39, 48), "16K": (39, 47), "64K": (39, 42)}


@dataclass(frozen=True)
class Root:
    """A root: its table, its input size, and where the data's descriptors are below it."""

    table: int
    bits: int
    leaf: int
    upper: int


Piece = tuple[str, int, int]


class Moves:
    """A question under construction: the tables, and the pieces of the program so far."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.el = random.choice((1, 2))
        self.granule = random.choice(("4K", "4K", "4K", "16K", "64K"))
        self.arena = Arena(TABLES, self.granule)
        self.size = self.arena.granule.size
        self.zero = self.arena.table()
        self.high = self.el == 1 and self.chance(0.3)
        self.data = HIGH_DATA if self.high else DATA
        self.tbi = int(not self.high and self.chance(0.1))
        self.pointer = self.data | (0x5A << 56 if self.tbi else 0)
        self.a1 = int(self.el == 1 and self.chance(0.2))
        self.ps = 0 if self.chance(0.1) else 2
        self.common = self.chance(0.04) and not self.high
        one = random.choice(_BITS[self.granule])
        bits = [one, one, random.choice(_BITS[self.granule])]
        self.code = self.code_root(39)
        self.roots = [self.root(b) for b in bits[: random.choice((2, 2, 3))]]
        self.hyp = self.code_root(39)
        self.drop = random.choice((0.0, 0.05, 0.15, 0.35))
        self.swap = random.choice((0.0, 0.0, 0.1))
        self.pieces: list[Piece] = []
        self.root_now = self.roots[0]
        self.asid = 1
        self.wxn_now = 0
        self.c_now = 1
        self.on = self.chance(0.85)
        self.moves = (
            *(self.switch, self.switch, self.asid_change),
            *(self.break_before_make, self.break_before_make, self.make, self.relink),
            *(self.t0sz, self.wxn, self.mair, self.epd, self.off, self.hypervisor),
            self.service,
            *(self.contiguous, self.jump, self.load, self.cache, self.pan, self.maintain),
        )

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    # Tables

    def code_root(self, bits: int) -> int:
        arena = self.arena
        root = arena.table()
        if self.chance(0.15):
            arena.map(root, CODE, CODE, bits, level=2)
        else:
            arena.map(root, CODE, CODE, bits)
        if self.chance(0.95):
            arena.map(root, RUN, CODE, bits)
        arena.map(root, TABLES, TABLES, bits, level=2, extra=PXN | UXN)
        return root

    def root(self, bits: int) -> Root:
        """A root with the data mapped somehow; with code too unless the data is in TTBR1."""
        arena = self.arena
        root = arena.table() if self.high else self.code_root(bits)
        va = self.data & (1 << bits) - 1
        leaf = arena.location(root, va, 3, bits)
        upper = arena.location(root, va, 2, bits)
        if self.chance(0.2):
            nt = NT if self.chance(0.3) else 0
            arena.put(upper, block(self.random.choice(PAS), extra=self.ng() | nt))
        elif self.chance(0.8):
            arena.put(leaf, self.leaf())
        if self.chance(0.1) and arena.get(upper) & 3 == 3:
            arena.put(upper, arena.get(upper) | self.random.choice((1 << 62, 1 << 60, 1 << 59)))
        if bits > 39 and self.chance(0.3) and not arena.get(root):
            arena.put(root, root | 3)
        return Root(root, bits, leaf, upper)

    def ng(self) -> int:
        return NG if self.el == 1 and self.chance(0.5) else 0

    def leaf(self) -> int:
        extra = self.ng() | (RO if self.chance(0.2) else 0) | (UXN if self.chance(0.3) else 0)
        if self.el == 1 and self.chance(0.15):
            extra |= USER
        pa = BIG_PA if self.chance(0.05) else self.random.choice((PAS[0], *PAS))
        return page(pa, int(self.chance(0.15)), extra)

    # Registers

    def name(self, register: str) -> str:
        return f"{register}_EL{self.el}"

    def ttbr(self, root: Root | None = None, upper: bool = False) -> int:
        """The value of TTBR0 or TTBR1 with *root*, or with the one that stays."""
        table = root.table if root else self.zero if upper or not self.high else self.code
        asid = self.asid << 48 if self.el == 1 and self.a1 == upper else 0
        return table | asid | int(self.common)

    def tcr(self, bits: int, epd: int = 0) -> int:
        tg0, tg1 = _TG[self.granule]
        if self.el == 2:
            return tcr2(64 - bits, ps=self.ps, TG0=tg0, TBI=self.tbi)
        fields = {"TG0": tg0, "TG1": tg1, "A1": self.a1, "TBI0": self.tbi}
        if self.high:
            return tcr1(25, 64 - bits, self.ps, EPD1=epd, **fields)
        return tcr1(64 - bits, 25, self.ps, EPD1=epd, **fields)

    def sctlr(self, m: int) -> int:
        return 0x1000 | m | self.c_now << 2 | self.wxn_now << 19

    def registers(self) -> dict[str, int]:
        """The registers at the start, those of EL2 too."""
        one = self.root_now
        values = {
            "TTBR0_EL2": self.hyp,
            "TCR_EL2": tcr2(25, TG0=_TG[self.granule][0]),
            "MAIR_EL2": MAIR,
            "SCTLR_EL2": 0x1004 | self.chance(0.8),
        }
        return values | {
            self.name("TTBR0"): self.ttbr() if self.high else self.ttbr(one),
            self.name("TTBR1"): self.ttbr(one, True) if self.high else self.ttbr(None, True),
            self.name("TCR"): self.tcr(one.bits),
            self.name("MAIR"): MAIR,
            self.name("SCTLR"): self.sctlr(int(self.on)),
        }

    # Moves

    def add(self, *pieces: Piece) -> None:
        self.pieces += pieces

    def flush(self) -> None:
        self.add(("tlbi all", 0, 0), ("dsb", 0, 0), ("isb", 0, 0))

    def install(self, root: Root) -> None:
        """The write of the TTBR that holds the data's root, and of the ASID if that is elsewhere."""
        self.root_now = root
        if self.el == 1 and self.a1 != self.high:
            self.add(("ttbr1" if self.a1 else "ttbr0", self.ttbr(None, bool(self.a1)), 0))
        if self.high:
            self.add(("ttbr1", self.ttbr(root, True), 0))
        else:
            self.add(("ttbr0", self.ttbr(root), 0))

    def switch(self) -> None:
        root = self.random.choice(self.roots)
        if root.bits != self.root_now.bits and self.chance(0.7):
            return
        self.install(root)
        self.add(("isb", 0, 0))
        self.flush()

    def asid_change(self) -> None:
        """A context switch: another ASID and no TLBI."""
        if self.el == 2:
            return
        self.asid = 3 - self.asid
        self.install(self.random.choice(self.roots))
        self.add(("isb", 0, 0))

    def break_before_make(self) -> None:
        root = self.random.choice((self.root_now, self.root_now, *self.roots))
        at = root.leaf if self.chance(0.8) else root.upper
        values = [self.leaf()]
        if at == root.upper:
            values = [block(self.random.choice(PAS), extra=self.ng())]
            if self.arena.get(at) & 3 == 3:
                values.append(self.arena.get(at))
        self.add(("store", at, 0), ("dsb", 0, 0))
        self.add((self.random.choice(("tlbi va", "tlbi va", "tlbi last", "tlbi all")), 0, 0))
        self.add(("dsb", 0, 0), ("isb", 0, 0))
        self.add(("store", at, self.random.choice(values)), ("dsb st", 0, 0), ("isb", 0, 0))

    def make(self) -> None:
        """A store as if the descriptor were invalid, whether it is or not."""
        self.add(("store", self.root_now.leaf, self.leaf()), ("dsb st", 0, 0), ("isb", 0, 0))

    def relink(self) -> None:
        """The last table is replaced by another."""
        root = self.root_now
        table = self.arena.table()
        self.arena.put(table + root.leaf % self.size, self.leaf())
        self.add(("store", root.upper, 0), ("dsb", 0, 0))
        self.add((self.random.choice(("tlbi va", "tlbi last")), 0, 0), ("dsb", 0, 0), ("isb", 0, 0))
        if self.chance(0.5):
            self.add(("store", root.leaf, self.leaf()))
        self.add(("store", root.upper, table | 3), ("dsb st", 0, 0), ("isb", 0, 0))

    def t0sz(self) -> None:
        bits = self.random.choice(_BITS[self.granule])
        self.add(("tcr", self.tcr(bits), 0), ("isb", 0, 0))
        self.flush()

    def epd(self) -> None:
        """TTBR1 walks off, another root, walks on."""
        if not self.high:
            return
        root = self.random.choice(self.roots)
        self.add(("tcr", self.tcr(self.root_now.bits, 1), 0), ("isb", 0, 0))
        self.flush()
        self.install(root)
        self.add(("isb", 0, 0), ("tcr", self.tcr(root.bits), 0), ("isb", 0, 0))

    def wxn(self) -> None:
        self.wxn_now ^= 1
        self.add(("sctlr", self.sctlr(1), 0), ("isb", 0, 0))
        self.flush()

    def mair(self) -> None:
        value = self.random.choice((MAIR, 0x44_FF_FF, 0x00_44_44))
        self.add(("mair", value, 0), ("isb", 0, 0))
        self.flush()

    def off(self) -> None:
        """MMU off, new root, MMU on; legal only at the ID map."""
        root = self.random.choice(self.roots)
        self.add(("jump", CODE, 0), ("sctlr", self.sctlr(0), 0), ("isb", 0, 0), ("tlbi all", 0, 0))
        self.install(root)
        self.add(("tcr", self.tcr(root.bits), 0))
        if self.chance(0.3):
            self.add(("store", root.leaf, self.leaf()))
            self.maintenance(root.leaf)
        self.add(("dsb", 0, 0), ("isb", 0, 0), ("sctlr", self.sctlr(1), 0), ("isb", 0, 0))

    def hypervisor(self) -> None:
        """EL2 changes the registers or the tables of EL1&0 behind its back."""
        if self.el == 2:
            return
        self.add(("jump", CODE, 0), ("enter", 0, 0), ("dsb", 0, 0))
        entered = len(self.pieces)
        if self.chance(0.5):
            self.install(self.random.choice(self.roots))
        if self.chance(0.4):
            self.add(("store", self.root_now.leaf, self.leaf()))
            if self.chance(0.5):
                self.maintenance(self.root_now.leaf)
        self.add(("dsb", 0, 0), ("tlbi all", 0, 0), ("dsb", 0, 0))
        if self.chance(0.2):
            self.pieces.insert(self.random.randrange(entered, len(self.pieces)), ("at", 0, 0))
        self.add(("leave", 0, 0))

    def service(self) -> None:
        """A call of EL2 that is taken to have returned."""
        if self.el == 1:
            self.add(("service", 0, 0))

    def contiguous(self) -> None:
        """A group of contiguous entries is broken and made; each member wants its TLBI."""
        if self.granule != "4K" or self.chance(0.6):
            return
        root, extra = self.root_now, self.ng() | (CONT if self.chance(0.7) else 0)
        pa, new = PAS[0], self.random.choice(PAS)
        for i in range(16):
            self.arena.put(root.leaf + 8 * i, page(pa + i * 4096, extra=extra | CONT))
            self.add(("store", root.leaf + 8 * i, 0))
        self.add(("dsb", 0, 0))
        one = self.chance(0.3)
        for i in range(1 if one else 16):
            self.add(("tlbi va", self.data + i * 4096, 0))
        self.add(("dsb", 0, 0), ("isb", 0, 0))
        for i in range(16):
            self.add(("store", root.leaf + 8 * i, page(new + i * 4096, extra=extra)))
        self.add(("dsb st", 0, 0), ("isb", 0, 0))

    def maintenance(self, at: int) -> None:
        """A DC after a store, with a barrier before it or not."""
        if self.chance(0.8):
            self.add(("dmb", 0, 0))
        self.add((self.random.choice(("dc civac", "dc civac", "dc ivac", "dc cvac")), at, 0))

    def maintain(self) -> None:
        """A new value that is cleaned, or lost."""
        self.make()
        self.maintenance(self.root_now.leaf)
        self.add(("dsb", 0, 0), ("isb", 0, 0))

    def cache(self) -> None:
        """SCTLR.C changes."""
        self.c_now ^= 1
        self.add(("sctlr", self.sctlr(1), 0), ("isb", 0, 0))

    def pan(self) -> None:
        self.add(("pan", self.random.choice((0, 1)), 0))

    def jump(self) -> None:
        self.add(("jump", self.random.choice((CODE, RUN)), 0))

    def load(self) -> None:
        self.add(("load", 0, 0))
