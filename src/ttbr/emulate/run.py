"""A run of code on an emulated CPU: what it needs, and what is reported of it.

A `Job` is given to `ttbr.emulate.unicorn_run`, `ttbr.emulate.replay` or `ttbr.emulate.qemu_run`;
each answers with an `Outcome`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ttbr.arch.faults import Fault
from ttbr.emulate import encode
from ttbr.errors import InvalidError, UnsupportedError

__all__ = ["PAGE", "Death", "Executed", "Job", "Outcome", "State", "blocks_of"]

PAGE = 4096
GENERAL = tuple(f"x{number}" for number in range(31))


@dataclass(frozen=True, slots=True)
class Job:
    """Code to run, and all that it finds.

    `memory` is physical address -> bytes: tables, code and data. `registers` holds system registers
    by Arm name and ``x0`` to ``x30`` and ``sp``; those not in it are zero. The run starts at the
    virtual address `entry` at exception level `el` (1 or 2) and has reached its end when the
    instruction at `until` was fetched. `faults` are addresses whose fetch is meant to fault: the
    exception is taken to VBAR. `calls` are addresses of SVC, HVC and SMC with the exception level
    that they are taken to, None where the call is taken to have returned. `limit` is the most
    instructions that may be executed.
    """

    name: str
    memory: Mapping[int, bytes] = field(repr=False)
    registers: Mapping[str, int] = field(repr=False)
    el: int
    entry: int
    until: int
    faults: frozenset[int] = frozenset()
    calls: Mapping[int, int | None] = field(default_factory=dict)
    limit: int = 10_000

    def __post_init__(self) -> None:
        if self.el not in (1, 2):
            raise InvalidError(f"{self.name}: EL{self.el}: code runs at EL1 or EL2")
        for base, data in self.memory.items():
            if not 0 <= base <= (1 << 52) - len(data):
                raise InvalidError(f"{self.name}: memory at {base:#x}: beyond 52 bits")
        for name in self.registers:
            if name not in GENERAL and name != "sp":
                encode.system_register(name)
        for name in ("entry", "until"):
            address = getattr(self, name)
            if address % 4 or not 0 <= address < 1 << 64:
                raise InvalidError(f"{self.name}: {name} {address:#x}: not an instruction address")

    @property
    def system(self) -> dict[str, int]:
        """The system registers alone."""
        return {n: v for n, v in self.registers.items() if n not in GENERAL and n != "sp"}

    @property
    def general(self) -> dict[int, int]:
        """x0 to x30 by number."""
        return {i: self.registers[n] for i, n in enumerate(GENERAL) if n in self.registers}


@dataclass(frozen=True, slots=True)
class State:
    """The registers that translate at the moment of an instruction, for the regime of its `el`.

    `ttbr1` is None where the regime has one TTBR.
    """

    el: int
    mmu: bool
    ttbr0: int
    ttbr1: int | None
    tcr: int

    @property
    def t0sz(self) -> int:
        """TCR_ELx.T0SZ [5:0]."""
        return self.tcr & 0x3F


@dataclass(frozen=True)
class Executed:
    """One executed instruction: the `word` at `pc`, fetched from `pa`, under `state`.

    `pa` is what the emulator itself translates `pc` to; None where it says nothing, which in a run
    that goes on means an entry that the tables no longer have.
    """

    pc: int
    word: int
    pa: int | None
    state: State

    @cached_property
    def text(self) -> str:
        """The instruction in assembly."""
        from ttbr.switch.machinecode import decode

        try:
            return decode(self.word, self.pc, "").text
        except (InvalidError, UnsupportedError):
            return f".inst {self.word:#010x}"


@dataclass(frozen=True, slots=True)
class Death:
    """Why a run did not reach its end.

    `pc` is the instruction that was not completed, `far` the address that it could not use, by
    `access` (``fetch``, ``load``, ``store``; empty where no access failed). `fault` is the
    translation's, `status` the fault status code; both are None when it was something else.
    `decreed`: the architecture allows it, as a proof says, and the emulator showed nothing of it.
    """

    pc: int
    why: str
    access: str = ""
    far: int | None = None
    fault: Fault | None = None
    status: int | None = None
    decreed: bool = False

    def __str__(self) -> str:
        what = f"{self.access} of {self.far:#x}" if self.access and self.far is not None else ""
        text = f"died at {self.pc:#x}: " + ": ".join(part for part in (what, self.why) if part)
        return f"{text} [as the proof allows, not observed]" if self.decreed else text


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did: `cpu` names who ran it; `death` is None when it reached its end.

    `registers` are the translation registers and PC afterwards. `held` says in words which TLB
    entries and walks were used in place of what the tables give.
    """

    job: Job = field(repr=False)
    cpu: str
    executed: tuple[Executed, ...] = field(repr=False)
    death: Death | None
    registers: Mapping[str, int] = field(repr=False)
    held: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        """Whether the instruction at `Job.until` was fetched."""
        return self.death is None

    @property
    def stale(self) -> str | None:
        """What was fetched through TLB entries that the tables no longer have, if anything."""
        numbers = [n for n, step in enumerate(self.executed) if step.pa is None]
        if not numbers:
            return None
        first = self.executed[numbers[0]]
        return (
            f"relies on stale TLB entries: the tables do not translate {first.pc:#x} any more at "
            f"instruction {numbers[0]}"
        )

    def __str__(self) -> str:
        count = f"{len(self.executed)} instructions"
        if self.death is None:
            return f"{self.job.name} on {self.cpu}: reached {self.job.until:#x} after {count}"
        return f"{self.job.name} on {self.cpu}: {self.death} after {count}"


def blocks_of(memory: Mapping[int, bytes | bytearray]) -> dict[int, bytearray]:
    """*memory* as blocks of whole pages that do not touch; `InvalidError` where pieces overlap."""
    blocks: dict[int, bytearray] = {}
    start = last = 0
    block: bytearray | None = None
    for address in sorted(memory):
        data = memory[address]
        if address < last:
            raise InvalidError(f"memory at {address:#x} overlaps what ends at {last:#x}")
        first, end = address & -PAGE, -(-(address + len(data)) // PAGE) * PAGE
        if block is None or first > start + len(block):
            start, block = first, bytearray()
            blocks[start] = block
        if end - start > len(block):
            block.extend(bytes(end - start - len(block)))
        block[address - start : address - start + len(data)] = data
        last = address + len(data)
    return blocks
