"""Small helpers of the switch tests: tables made entry by entry, and traces made event by event."""

from dataclasses import dataclass, field

from ttbr.arch.geometry import GRANULES, Granule, level_count
from ttbr.arch.registers import REGISTERS
from ttbr.memory import SparseMemory
from ttbr.switch.program import (
    Abort,
    Branch,
    Dc,
    Dmb,
    Dsb,
    Eret,
    Event,
    ExceptionEntry,
    Isb,
    Load,
    Msr,
    Step,
    Store,
    Tlbi,
)
from ttbr.switch.tlbi import tlbi_by_name

WB, NC, DEVICE = 0, 1, 2
MAIR = 0x00_44_FF  # Attr0 Normal Write-Back, Attr1 Normal Non-cacheable, Attr2 Device-nGnRnE
M_ON = 0x1005  # SCTLR.M, C, I
NG, CONT, UXN, RO = 1 << 11, 1 << 52, 1 << 54, 1 << 7


def page(pa: int, index: int = WB, extra: int = 0) -> int:
    """A page descriptor: AF, Inner Shareable."""
    return pa | 0x700 | index << 2 | 0b11 | extra


def block(pa: int, index: int = WB, extra: int = 0) -> int:
    return pa | 0x700 | index << 2 | 0b01 | extra


class Arena:
    """Table pages from *base* up, granule-sized."""

    def __init__(self, base: int = 0x6000_0000, granule: str = "4K") -> None:
        self.base, self.granule = base, GRANULES[granule]
        self.pages: dict[int, bytearray] = {}

    def table(self, pages: int = 1) -> int:
        address = self.base + len(self.pages) * self.granule.size
        for i in range(pages):
            self.pages[address + i * self.granule.size] = bytearray(self.granule.size)
        return address

    def put(self, location: int, value: int) -> None:
        start = location & -self.granule.size
        self.pages[start][location - start : location - start + 8] = value.to_bytes(8, "little")

    def get(self, location: int) -> int:
        start = location & -self.granule.size
        return int.from_bytes(self.pages[start][location - start : location - start + 8], "little")

    def location(self, root: int, va: int, level: int, bits: int) -> int:
        """Where the descriptor of *va* at *level* stands; tables above it are made as needed."""
        g: Granule = self.granule
        table, at = root, 4 - level_count(g, bits)
        mask = (1 << (bits - g.level_shift(at))) - 1
        while True:
            location = table + (va >> g.level_shift(at) & mask) * 8
            if at == level:
                return location
            if not self.get(location):
                self.put(location, self.table() | 0b11)
            table = self.get(location) & 0xFFFF_FFFF_F000
            at, mask = at + 1, g.entries - 1

    def map(
        self,
        root: int,
        va: int,
        pa: int,
        bits: int,
        level: int = 3,
        index: int = WB,
        extra: int = 0,
    ) -> int:
        """Map the page or block of *va*; its descriptor's location."""
        location = self.location(root, va, level, bits)
        size = self.granule.entry_size(level)
        make = page if level == 3 else block
        self.put(location, make(pa & -size, index, extra))
        return location

    def link(self, root: int, va: int, table: int, bits: int, level: int) -> int:
        """Make the entry of *va* at *level* point to *table*."""
        location = self.location(root, va, level, bits)
        self.put(location, table | 0b11)
        return location

    @property
    def extents(self) -> tuple[tuple[int, int], ...]:
        return tuple((at, len(data)) for at, data in self.pages.items())

    def memory(self) -> SparseMemory:
        return SparseMemory(self.pages)


def tcr2(t0sz: int, ps: int = 2, **fields: int) -> int:
    """TCR_EL2 with cacheable, Inner Shareable walks."""
    return REGISTERS["TCR_EL2"].encode(T0SZ=t0sz, PS=ps, SH0=3, ORGN0=1, IRGN0=1, **fields)


def tcr1(t0sz: int, t1sz: int = 25, ips: int = 5, **fields: int) -> int:
    """TCR_EL1 likewise, 4K in both halves, 16-bit ASIDs."""
    fields = {"TG1": 2, "AS": 1} | fields
    walks = {
        f"{name}{n}": value for n in "01" for name, value in (("SH", 3), ("ORGN", 1), ("IRGN", 1))
    }
    return REGISTERS["TCR_EL1"].encode(T0SZ=t0sz, T1SZ=t1sz, IPS=ips, **walks, **fields)


@dataclass
class Trace:
    """A trace under construction: each method is one instruction at the current PC."""

    pc: int
    el: int = 2
    hcr: int = 0
    steps: list[Step] = field(default_factory=list)
    pan: int | None = 0

    def step(self, text: str, *events: Event) -> "Trace":
        self.steps.append(
            Step(
                self.pc, self.el, text, f"test+{len(self.steps) * 4:#x}", events, self.hcr, self.pan
            )
        )
        self.pc += 4
        return self

    def msr(self, register: str, value: int) -> "Trace":
        return self.step(f"msr {register}, {value:#x}", Msr(register, value))

    def isb(self) -> "Trace":
        return self.step("isb", Isb())

    def dsb(self, option: str = "NSH") -> "Trace":
        kind = next((k for k in ("LD", "ST") if option.endswith(k)), "")
        domain = option.removesuffix(kind) or "SY"
        return self.step(f"dsb {option.lower()}", Dsb(domain, kind))

    def dmb(self, option: str = "SY") -> "Trace":
        kind = next((k for k in ("LD", "ST") if option.endswith(k)), "")
        return self.step(f"dmb {option.lower()}", Dmb(option.removesuffix(kind) or "SY", kind))

    def tlbi(self, name: str, va: int | None = None, asid: int = 0) -> "Trace":
        op = tlbi_by_name(name)
        assert op is not None
        operand = asid << 48 | (0 if va is None else va >> 12 & (1 << 44) - 1)
        return self.step(f"tlbi {name.lower()}", Tlbi(op, operand))

    def br(self, va: int) -> "Trace":
        self.step(f"br {va:#x}", Branch(va))
        self.pc = va
        return self

    def nop(self) -> "Trace":
        return self.step("nop")

    def ldr(self, va: int) -> "Trace":
        return self.step(f"ldr [{va:#x}]", Load(va, 8))

    def store(self, va: int, value: int) -> "Trace":
        return self.step(f"str {value:#x}, [{va:#x}]", Store(va, 8, value))

    def dc(self, op: str, va: int) -> "Trace":
        return self.step(f"dc {op.lower()}, {va:#x}", Dc(op, va))

    def fault(self, el: int, vector: int, isb: bool = False) -> "Trace":
        """The fetch here is meant to fault, which is taken to *vector*."""
        self.step("(fault)", Abort(isb), ExceptionEntry(el, vector))
        self.el, self.pc = el, vector
        return self

    def call(self, el: int, vector: int) -> "Trace":
        """HVC or SVC, taken to *vector*."""
        self.step("call", ExceptionEntry(el, vector))
        self.el, self.pc = el, vector
        return self

    def eret(self, el: int, target: int) -> "Trace":
        self.step("eret", Eret(target, el))
        self.el, self.pc = el, target
        return self

    @property
    def done(self) -> tuple[Step, ...]:
        return tuple(self.steps)
