"""What a program is to the proof: a linear trace of steps, each with its address and its events.

However an instruction sequence comes in, as assembly text (`ttbr.switch.assembly`) or as machine
code (`ttbr.switch.machinecode`), it is a `Code`: instructions by address. The interpreter
(`ttbr.switch.interpreter`) executes them on concrete register values, follows the branches that are
taken, and leaves a `Trace`. The events of a step are what can matter to translation; a step without
events only computes. Every step is also a fetch from its `pc`.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from ttbr.errors import InvalidError, MemoryFault
from ttbr.switch.operands import Operand
from ttbr.switch.tlbi import TlbiOp

__all__ = [
    "Abort",
    "At",
    "Branch",
    "Code",
    "Dc",
    "Dmb",
    "Dsb",
    "End",
    "Eret",
    "Event",
    "ExceptionEntry",
    "Ic",
    "Instruction",
    "Isb",
    "Layout",
    "Load",
    "Msr",
    "ProgramError",
    "Step",
    "Store",
    "Tlbi",
    "Trace",
]


class ProgramError(InvalidError):
    """A program that cannot be run to its end; carries the `address` of the instruction."""

    def __init__(self, address: int, text: str, why: str) -> None:
        super().__init__(f"{address:#x}: {text}: {why}")
        self.address = address


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction, the same from text and from machine code.

    `operands` have the form that `ttbr.switch.instructions` gives for the `mnemonic`; branch
    targets among them are relative to the instruction, so code may run at another address than it
    was written for. `where` names the source line or the symbol.
    """

    mnemonic: str
    operands: tuple[Operand, ...]
    width: int
    text: str
    where: str


class Code(Protocol):
    """Instructions by virtual address, and the bytes around them that loads may read."""

    @property
    def entry(self) -> int:
        """The address of the first instruction."""

    def fetch(self, pc: int) -> Instruction | None:
        """The instruction at *pc*, or None where this code has nothing.

        `UnsupportedError` for an instruction that is not modelled.
        """

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the code as data (literals); `MemoryFault` elsewhere."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Several pieces of code, or one piece seen at several addresses.

    Each part comes with the distance from the address it was written for to where it is seen; two
    parts of the same code are one routine mapped twice (an ID map and a run-time map).
    """

    entry: int
    parts: tuple[tuple[Code, int], ...]

    def fetch(self, pc: int) -> Instruction | None:
        """The instruction at *pc*, from the first part that has one."""
        found = (code.fetch(pc - offset) for code, offset in self.parts)
        return next((instruction for instruction in found if instruction), None)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the first part that has them; `MemoryFault` when none has."""
        for code, offset in self.parts:
            with suppress(MemoryFault):
                return code.read(address - offset, size)
        raise MemoryFault(address, size, "no code there")


@dataclass(frozen=True, slots=True)
class Msr:
    """A write of a system register by its Arm name, VHE redirection already applied.

    `value` is None where it is unknown; never for a register that controls translation. PSTATE
    fields (``PAN``, ``DAIFSET`` ...) written as immediates appear by their field name, with the
    immediate as the value.
    """

    register: str
    value: int | None


@dataclass(frozen=True, slots=True)
class Isb:
    """A context synchronization event by ISB."""


@dataclass(frozen=True, slots=True)
class Dsb:
    """DSB: `domain` is NSH, ISH, OSH or SY; `kind` is LD, ST or empty (loads and stores)."""

    domain: str
    kind: str = ""
    nxs: bool = False


@dataclass(frozen=True, slots=True)
class Dmb:
    """DMB, with the options of `Dsb`."""

    domain: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Tlbi:
    """A TLB invalidation: which one, and the value of its register operand (0 when it has none)."""

    op: TlbiOp
    operand: int


@dataclass(frozen=True, slots=True)
class Dc:
    """Data cache maintenance, by `op` name in upper case; `operand` is a VA or a set/way."""

    op: str
    operand: int


@dataclass(frozen=True, slots=True)
class Ic:
    """Instruction cache maintenance; `va` only for IVAU."""

    op: str
    va: int | None = None


@dataclass(frozen=True, slots=True)
class At:
    """An address translation instruction: a walk of `va` as `op` (``S1E2R``) says."""

    op: str
    va: int


@dataclass(frozen=True, slots=True)
class Load:
    """A data read of `size` bytes. `unaligned`: it faults on Device memory, and by SCTLR_ELx.A."""

    va: int
    size: int
    unaligned: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """A data write of `size` bytes, little endian; `value` is None where it is unknown.

    `unaligned`: it faults on Device memory, and by SCTLR_ELx.A. `zva`: it is of DC ZVA, which
    faults on Device memory too.
    """

    va: int
    size: int
    value: int | None
    unaligned: bool = False
    zva: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """A taken branch; `target` is None only for a return to an unknown caller."""

    target: int | None


@dataclass(frozen=True, slots=True)
class ExceptionEntry:
    """An exception taken to `el` at `vector` (None: to a higher EL whose code is not looked at)."""

    el: int
    vector: int | None


@dataclass(frozen=True, slots=True)
class Abort:
    """The fetch of this step is meant to fault: the exception that follows is for that.

    `isb`: the instruction there is an ISB. While SCTLR_ELx.M may still read as 0 it may be executed
    instead, and the fetch behind it then faults.
    """

    isb: bool = False


@dataclass(frozen=True, slots=True)
class Eret:
    """An exception return to `target` (None when unknown) at `el`."""

    target: int | None
    el: int


_System = Msr | Isb | Dsb | Dmb | Tlbi | Dc | Ic | At
Event = _System | Load | Store | Branch | ExceptionEntry | Abort | Eret


@dataclass(frozen=True, slots=True)
class Step:
    """One executed instruction: fetched from `pc` at exception level `el`.

    The register file's HCR_EL2 at that point decides what a TLBI by an EL1 name reaches
    (`ttbr.switch.tlbi.TlbiOp.regime`), hence `hcr`. `pan` is PSTATE.PAN, None where it is not
    known: unlike a register it needs no synchronization (C5.2). `landing`: an indirect branch led
    here, and the instruction is none that a guarded page allows then (FEAT_BTI).
    """

    pc: int
    el: int
    text: str
    where: str
    events: tuple[Event, ...] = ()
    hcr: int = 0
    pan: int | None = 0
    landing: bool = False

    def __str__(self) -> str:
        place = f"{self.pc:#x}: {self.text}"
        return f"{self.where}: {place}" if self.where else place


@dataclass(frozen=True, slots=True)
class End:
    """Why a run ended: `how` in words, and the address that comes next where one is known."""

    how: str
    target: int | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """The steps of a run in order, why it ended, and the registers then.

    `registers` holds what is known of x0-x30 and of the system registers.
    """

    steps: tuple[Step, ...]
    end: End
    registers: Mapping[str, int]
