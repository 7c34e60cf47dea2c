"""What is to be proved: tables, registers, a trace, and what every address is meant to reach.

A `Problem` is data only. `ttbr.switch.prove` answers it; `ttbr.switch.machine` holds the rules.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ttbr.arch.attributes import PR, PW, PX
from ttbr.arch.features import Features
from ttbr.arch.regime import EL1, EL2, EL20
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.memory.protocol import Memory
from ttbr.switch.program import Event, Load, Msr, Step, Store

__all__ = [
    "A_CTRL",
    "A_DSB",
    "A_IC",
    "ASSUMPTIONS",
    "BBM_LEVELS",
    "Environment",
    "Intent",
    "IntentMap",
    "Options",
    "Problem",
    "regime_at",
]

A_IC, A_CTRL, A_DSB = "A-IC", "A-CTRL", "A-DSB"
ASSUMPTIONS = {
    A_IC: "two table descriptors cached for one address and level do not conflict by themselves",
    A_CTRL: "an old TCR, MAIR or WXN value outlives synchronization only inside TLB entries",
    A_DSB: "a TLBI takes effect for translations that start after its DSB, without an ISB",
}
"""Readings of the architecture that a proof may rest on, each of which can be dropped.

A-IC: R_WHZWS does not list a change of the table pointer with equal leaves; I_HYQMB and I_CFFVK
name intermediate entries. A-CTRL: R_VNRFW against K1.2.3. A-DSB: R_BLDZX also asks for a context
synchronization event.
"""

# A change of these is refused; VM where EL1&0 is the regime at that step.
# Bits that must stay as they are; the first ones only where EL1 runs under them.
_EL1_BITS = ((0, "VM"), (12, "DC"), (31, "RW"))
_HCR_BITS = ((27, "TGE"), (34, "E2H"), (42, "NV"), (43, "NV1"))

BBM_LEVELS = ("0", "1", "2", "2na")
"""FEAT_BBM levels (ID_AA64MMFR2_EL1.BBM); ``2na`` is level 2 on parts known not to abort."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the CPU has, and which assumptions hold.

    `bbm` is one of `BBM_LEVELS`; `ets2`, `ntlbpa` and `exs` are FEAT_ETS2, FEAT_nTLBPA and
    FEAT_ExS; `line` is the smallest data cache line in bytes; `features` default to what the ID
    registers of the problem tell. `assumptions` are keys of `ASSUMPTIONS`.
    """

    bbm: str = "0"
    ets2: bool = False
    ntlbpa: bool = False
    exs: bool = False
    line: int = 64
    features: Features | None = None
    assumptions: frozenset[str] = frozenset(ASSUMPTIONS)

    def __post_init__(self) -> None:
        if self.bbm not in BBM_LEVELS:
            raise InvalidError(f"bbm {self.bbm!r}: must be one of {', '.join(BBM_LEVELS)}")
        for name in self.assumptions - ASSUMPTIONS.keys():
            raise InvalidError(f"assumption {name!r}: must be one of {', '.join(ASSUMPTIONS)}")
        if self.line < 4 or self.line & (self.line - 1):
            raise InvalidError(f"line {self.line}: must be a power of two from 4 up")

    def without(self, *names: str) -> "Options":
        """The same options with the assumptions *names* dropped."""
        return replace(self, assumptions=self.assumptions - set(names))


@dataclass(frozen=True, slots=True)
class Intent:
    """*size* bytes from *va* are meant to reach *pa*, as memory type *attr* (a MAIR byte).

    `pa` None: the range is meant to be unmapped. `permissions` is the mask of what must be allowed.
    With `fault` a translation, address size, access flag or permission fault of a load or store is
    meant as well; a fetch that is meant to fault is an `Abort` of its step.
    `when` says when the range is judged: ``access`` (where the trace uses it), ``end`` (also after
    the last step) or ``always`` (also at every step). `regime` limits it to one regime.
    """

    va: int
    size: int
    pa: int | None
    attr: int = 0xFF
    permissions: int = PR | PW | PX
    fault: bool = False
    when: str = "access"
    regime: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if self.when not in ("access", "end", "always"):
            raise InvalidError(
                f"intent for {self.va:#x}: when={self.when!r}: access, end or always"
            )
        if self.size <= 0 or self.va < 0 or self.va + self.size > 1 << 64:
            raise InvalidError(f"intent for {self.va:#x}: size {self.size:#x} is out of range")
        if (self.va | self.size | (self.pa or 0)) & 0xFFF:
            raise InvalidError(f"intent for {self.va:#x}: addresses and size must be 4 KB aligned")

    @property
    def end(self) -> int:
        return self.va + self.size

    def output(self, va: int) -> int | None:
        """The address that *va* is meant to reach."""
        return None if self.pa is None else self.pa + va - self.va


class IntentMap:
    """The intents of one regime, by address; `InvalidError` where two contradict each other."""

    def __init__(self, intents: Iterable[Intent]) -> None:
        self.ranges = sorted(intents, key=lambda i: i.va)
        for left, right in zip(self.ranges, self.ranges[1:], strict=False):
            if right.va < left.end:
                raise InvalidError(
                    f"intent contradicts itself: {left.va:#x}-{left.end:#x} and "
                    f"{right.va:#x}-{right.end:#x} overlap"
                )
        self._starts = [i.va for i in self.ranges]

    def at(self, va: int) -> Intent | None:
        """The intent that covers *va*."""
        index = bisect_right(self._starts, va) - 1
        if index < 0 or va >= self.ranges[index].end:
            return None
        return self.ranges[index]


@dataclass(frozen=True, slots=True)
class Environment:
    """The registers of another PE that shares TLB entries while TTBR_ELx.CnP is 1 (R_FWQJZ)."""

    regime: str
    registers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question: does every access of *steps* reach what *intent* says?

    `tables` are the (address, size) extents of memory that holds translation tables; a walk that
    reads a descriptor anywhere else reads junk. `unknown_tlb`: whether the TLB may hold entries
    from before (R_BQCDZ); None takes it so for a regime whose MMU is off at the start.
    `target`: an address that is fetched after the last step. `devices` are the (address, size)
    extents of Device memory, where they are known; only the exposure lint asks.
    """

    memory: Memory
    tables: tuple[tuple[int, int], ...]
    registers: Mapping[str, int]
    steps: tuple[Step, ...]
    intent: tuple[Intent, ...]
    options: Options = field(default_factory=Options)
    environment: tuple[Environment, ...] = ()
    unknown_tlb: bool | None = None
    target: int | None = None
    name: str = ""
    devices: tuple[tuple[int, int], ...] = ()

    def check(self) -> None:
        """Refuse what is not modelled; `UnsupportedError` or `InvalidError`, one line."""
        if not self.steps:
            raise InvalidError("the trace has no steps")
        hcr = self.registers.get("HCR_EL2", 0)
        if {step.hcr >> 34 & 1 for step in self.steps} == {0, 1}:
            raise UnsupportedError(
                "HCR_EL2.E2H changes on the way: EL2 and EL2&0 share TLB entries"
            )
        regimes = {regime_at(step) for step in self.steps}
        if EL1 in regimes and (hcr & 1 or hcr >> 12 & 1) and not hcr >> 27 & 1:
            bit = "VM" if hcr & 1 else "DC"
            raise UnsupportedError(f"HCR_EL2.{bit}=1: proofs do not cover stage 2 and VMIDs")
        for step in self.steps:
            tge, e2h = step.hcr >> 27 & 1, step.hcr >> 34 & 1
            if step.el == 1 and tge:
                raise UnsupportedError(f"{step}: EL1 with HCR_EL2.TGE=1 does not exist")
            if step.el == 0 and tge and not e2h:
                raise UnsupportedError(f"{step}: EL0 with HCR_EL2.TGE=1 and E2H=0 is not modelled")
        fixed = _HCR_BITS if EL1 not in regimes else (*_EL1_BITS, *_HCR_BITS)
        for step in self.steps:
            for event in step.events:
                _check_event(step, event, fixed)
                if EL1 in regimes and isinstance(event, Msr) and event.register == "VTTBR_EL2":
                    changed = (event.value or 0) ^ self.registers.get("VTTBR_EL2", 0)
                    if event.value is None or changed >> 48:
                        raise UnsupportedError(f"{step}: changes VTTBR_EL2.VMID")
                if EL1 in regimes and isinstance(event, Msr) and event.register == "VTCR_EL2":
                    changed = (event.value or 0) ^ self.registers.get("VTCR_EL2", 0)
                    if event.value is None or changed >> 19 & 1:
                        raise UnsupportedError(f"{step}: changes VTCR_EL2.VS, the size of a VMID")
        for address, size in self.tables:
            if address & 7 or size & 7 or size <= 0:
                raise InvalidError(f"table {address:#x}, size {size:#x}: must be 8-byte aligned")

    def intents(self, regime: str) -> IntentMap:
        """The intents that hold in *regime*."""
        return IntentMap(i for i in self.intent if i.regime in ("", regime))


def _check_event(step: Step, event: Event, fixed: Iterable[tuple[int, str]]) -> None:
    if isinstance(event, Msr) and event.register == "HCR_EL2":
        changed = (event.value or 0) ^ step.hcr
        for bit, name in fixed:
            if changed >> bit & 1:
                raise UnsupportedError(f"{step}: changes HCR_EL2.{name}")
    if isinstance(event, Load | Store) and event.size > 4096:
        raise UnsupportedError(f"{step}: an access of {event.size} bytes")


def regime_at(step: Step) -> str:
    """The regime that translates at *step*; `UnsupportedError` at EL3."""
    if step.el == 3:
        raise UnsupportedError(f"{step}: proofs do not cover EL3")
    e2h, tge = step.hcr >> 34 & 1, step.hcr >> 27 & 1
    if step.el == 2:
        return EL20 if e2h else EL2
    return EL20 if e2h and tge and step.el == 0 else EL1
