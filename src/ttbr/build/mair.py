"""MAIR_ELx: which index stands for which memory type."""

from dataclasses import dataclass

from ttbr.arch.attributes import memory_text
from ttbr.errors import InvalidError

__all__ = ["Mair"]


@dataclass(slots=True)
class Mair:
    """The eight memory types of MAIR_ELx, allocated as they are asked for.

    `value` is the register; bit *i* of `used` says that index *i* has its type. The halves of one
    regime share the register, so they share one `Mair`. With `Mair.fixed` nothing is added.
    """

    value: int = 0
    used: int = 0
    closed: bool = False

    @classmethod
    def fixed(cls, value: int) -> "Mair":
        """A register that software has set: all eight indices are in use."""
        return cls(value, 0xFF, True)

    @classmethod
    def given(cls, value: int) -> "Mair":
        """`fixed` for a register *value* that is set, an empty allocation for 0."""
        return cls.fixed(value) if value else cls()

    def index(self, byte: int) -> int:
        """The index of memory type *byte*, allocated when it is new; `InvalidError` when full."""
        for index in range(8):
            if self.used >> index & 1 and self.value >> 8 * index & 0xFF == byte:
                return index
        free = next((index for index in range(8) if not self.used >> index & 1), None)
        if free is None or self.closed:
            why = "is given" if self.closed else "is full"
            raise InvalidError(
                f"MAIR {self.value:#018x} {why} and has no {memory_text(byte)} ({byte:#04x})"
            )
        self.value |= byte << 8 * free
        self.used |= 1 << free
        return free
