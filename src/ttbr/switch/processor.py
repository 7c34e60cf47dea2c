"""The state that a program runs in: registers, flags, memory written, where values are unknown.

A value that nothing gives (a register that was not declared, a load from memory that is not there)
is `Unknown` and remembers why; it may be moved and computed with, and is refused only where it
decides something: a branch, an address, a register that controls translation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ttbr.arch.bits import ones
from ttbr.errors import MemoryFault
from ttbr.switch.arithmetic import holds, shifted
from ttbr.switch.operands import Condition, Memory, Operand, Register, Relative, Shifted
from ttbr.switch.program import Code, Event, Instruction, ProgramError, Store
from ttbr.switch.sysregs import redirected

__all__ = ["ADDRESS_MASK", "Processor", "Readable", "Unknown", "Value"]

ADDRESS_MASK = ones(64)
_E2H = 1 << 34


class Readable(Protocol):
    """Data memory by virtual address."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes from *address*; `MemoryFault` where nothing is."""


@dataclass(frozen=True, slots=True, eq=False)
class Unknown:
    """A value that is not known, and why."""

    why: str


Value = int | Unknown


@dataclass(slots=True)
class Processor:
    """One PE: `x` and `system` registers, NZCV in `flags`, and the bytes `written` by place.

    `events` are those of the `current` instruction, which is at `pc`.
    """

    code: Code
    system: dict[str, Value]
    el: int
    memory: Readable | None
    place: Callable[[int], int]
    pc: int = 0
    x: list[Value] = field(default_factory=list)
    flags: Value = 0
    written: dict[int, int | None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    current: Instruction | None = None

    def __post_init__(self) -> None:
        for i in range(31):
            given = self.system.pop(f"x{i}", None)
            self.x.append(Unknown(f"x{i} is not given") if given is None else given)
        pointer = self.system.pop("sp", None)
        if pointer is not None:
            self.system[self.stack_pointer()] = pointer
        flags = self.system.pop("NZCV", None)
        self.flags = Unknown("the flags are not given") if flags is None else flags

    def error(self, why: str) -> ProgramError:
        text = self.current.text if self.current else "fetch"
        return ProgramError(self.pc, text, why)

    def known(self, value: Value, what: str) -> int:
        """*value*, which decides something; refused when it is unknown."""
        if isinstance(value, Unknown):
            raise self.error(f"{what} is unknown: {value.why}")
        return value

    def hcr(self) -> int:
        value = self.system.get("HCR_EL2", 0)
        return value if isinstance(value, int) else 0

    def stack_pointer(self) -> str:
        return "SP_EL0" if self.system.get("SPSEL", 1) == 0 else f"SP_EL{self.el}"

    def get(self, register: Register) -> Value:
        if register.number < 31:
            value = self.x[register.number]
        elif register.sp:
            name = self.stack_pointer()
            value = self.system.get(name, Unknown(f"{name} is not given"))
        else:
            value = 0
        return value & ones(register.width) if isinstance(value, int) else value

    def put(self, register: Operand, value: Value) -> None:
        assert isinstance(register, Register)
        if isinstance(value, int):
            value &= ones(register.width)
        if register.number < 31:
            self.x[register.number] = value
        elif register.sp:
            self.system[self.stack_pointer()] = value

    def operand(self, operand: Operand, width: int) -> Value:
        """The value of a source operand."""
        if isinstance(operand, Register):
            return self.get(operand)
        if isinstance(operand, Shifted):
            value = self.get(operand.register)
            if isinstance(value, Unknown):
                return value
            amount = (operand.register.width, operand.kind, operand.amount)
            return shifted(value, *amount) & ones(width)
        if isinstance(operand, Condition):
            return self.holds(operand.name)
        assert isinstance(operand, int)
        return operand

    def holds(self, condition: str) -> Value:
        if condition in ("AL", "NV"):
            return True
        return self.flags if isinstance(self.flags, Unknown) else holds(condition, self.flags)

    def system_name(self, operand: Operand) -> str:
        assert isinstance(operand, str)
        name = redirected(operand, self.el, bool(self.hcr() & _E2H))
        if name is None:
            raise self.error(f"{operand} is UNDEFINED at EL{self.el}")
        return name

    def relative(self, operand: Operand) -> int:
        assert isinstance(operand, Relative)
        origin = self.pc & ~0xFFF if operand.page else self.pc
        return (origin + operand.offset) & ADDRESS_MASK

    def address(self, operand: Operand) -> int:
        if isinstance(operand, Relative):
            return self.relative(operand)
        assert isinstance(operand, Memory)
        if operand.base is None:
            return operand.offset
        base = self.known(self.get(operand.base), "the address")
        if operand.mode == "post":
            return base
        offset = operand.offset
        if operand.index is not None:
            offset = self.known(self.operand(operand.index, 64), "the index")
        return (base + offset) & ADDRESS_MASK

    def write_back(self, operand: Operand) -> None:
        if isinstance(operand, Memory) and operand.mode != "offset" and operand.base is not None:
            base = self.known(self.get(operand.base), "the address")
            self.put(operand.base, base + operand.offset)

    def load(self, address: int, size: int) -> Value:
        places = [self.place((address + i) & ADDRESS_MASK) for i in range(size)]
        data: list[int | None] = [None] * size
        if not all(place in self.written for place in places):
            data = list(self.given(address, size) or data)
        data = [self.written.get(place, byte) for place, byte in zip(places, data, strict=True)]
        if None in data:
            return Unknown(f"loaded from {address:#x} at {self.pc:#x}, where nothing is given")
        return int.from_bytes(bytes(byte or 0 for byte in data), "little")

    def given(self, address: int, size: int) -> bytes | None:
        """What memory, or else the code itself, holds there before the program ran."""
        for source in (self.memory, self.code):
            try:
                if source is not None:
                    return source.read(address, size)
            except MemoryFault:
                continue
        return None

    def store(self, address: int, size: int, value: Value, zva: bool = False) -> None:
        known = value & ones(8 * size) if isinstance(value, int) else None
        self.events.append(Store(address, size, known, address % size != 0, zva))
        data = known.to_bytes(size, "little") if known is not None else [None] * size
        for i, byte in enumerate(data):
            self.written[self.place((address + i) & ADDRESS_MASK)] = byte
