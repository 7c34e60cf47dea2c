"""Operands of decoded instructions: plain values that neither front end owns."""

from dataclasses import dataclass

__all__ = ["Condition", "Memory", "Operand", "Register", "Relative", "Shifted"]


@dataclass(frozen=True, slots=True)
class Register:
    """Xn or Wn. Number 31 is the stack pointer when `sp` is set, else the zero register."""

    number: int
    width: int
    sp: bool = False


@dataclass(frozen=True, slots=True)
class Shifted:
    """A register shifted (lsl, lsr, asr, ror) or extended (uxtb ... sxtx, then shifted left)."""

    register: Register
    kind: str
    amount: int


@dataclass(frozen=True, slots=True)
class Relative:
    """An address by its distance from the instruction; of its 4 KB page when `page` is set."""

    offset: int
    page: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """The address of a load or store.

    `mode` is offset, pre or post; `index` replaces the offset. With `base` None the offset is the
    address itself: a place named by a symbol, which is not an addressing mode of the architecture.
    """

    base: Register | None
    offset: int = 0
    index: Shifted | None = None
    mode: str = "offset"


@dataclass(frozen=True, slots=True)
class Condition:
    """EQ, NE, CS, CC, MI, PL, VS, VC, HI, LS, GE, LT, GT, LE, AL or NV."""

    name: str


Operand = Register | Shifted | Relative | Memory | Condition | int | str
