"""Bit fields and registers, written in the Arm ARM's own ``high:low`` form.

A `Field` names the bits ``high:low`` of a word; a `Register` is a named row of fields. Both are
data: `ttbr.arch.registers` and `ttbr.arch.descriptors` hold the rows, this module only cuts words.
"""

from collections.abc import Mapping

from ttbr.errors import InvalidError
from ttbr.record import record

__all__ = ["Field", "Register", "bits", "ones"]


def ones(count: int) -> int:
    """The *count* low bits set."""
    return (1 << count) - 1


def bits(word: int, high: int, low: int) -> int:
    """``word[high:low]``, both ends included, as the Arm ARM writes it."""
    return (word >> low) & ((1 << (high - low + 1)) - 1)


@record
class Field:
    """Bits ``high:low`` of a word.

    `values` says what the encodings mean; with `reserved` the encodings that are not in it are
    reserved. `feature` is the FEAT_* that gives the field a meaning (RES0 without it).
    """

    name: str
    high: int
    low: int
    meaning: str = ""
    values: Mapping[int, str] | None = None
    reserved: bool = False
    feature: str = ""

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return ones(self.width) << self.low

    @property
    def position(self) -> str:
        """``high:low``, or one number for a single bit."""
        return str(self.low) if self.high == self.low else f"{self.high}:{self.low}"

    def get(self, word: int) -> int:
        """The field's value in *word*."""
        return (word >> self.low) & ((1 << (self.high - self.low + 1)) - 1)

    def put(self, word: int, value: int) -> int:
        """*word* with the field set to *value*; `InvalidError` when the value does not fit."""
        if value < 0 or value >> self.width:
            raise InvalidError(f"{self.name}: {value:#x} does not fit in bits {self.position}")
        return word & ~self.mask | value << self.low

    def describe(self, value: int) -> str:
        """What *value* means in this field: from `values`, or ``reserved``, or an empty string."""
        if self.values is not None and value in self.values:
            return self.values[value]
        return "reserved" if self.reserved else ""


@record
class Register:
    """A register: its fields from the highest down, and its width in bits.

    Bits that no field names are RES0, but for those set in `res1`.
    """

    name: str
    title: str
    fields: tuple[Field, ...]
    res1: int = 0
    width: int = 64

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise InvalidError(f"{self.name} has no field {name}")

    @property
    def named(self) -> int:
        """The mask of all bits that a field names."""
        mask = 0
        for field in self.fields:
            mask |= field.mask
        return mask

    def decode(self, value: int) -> list[tuple[Field, int]]:
        """Each field with its value in *value*; `InvalidError` when the register is narrower."""
        if value < 0 or value >> self.width:
            raise InvalidError(f"{self.name}: {value:#x} does not fit in {self.width} bits")
        return [(field, field.get(value)) for field in self.fields]

    def encode(self, **values: int) -> int:
        """The register's value with the given fields set, its RES1 bits set, all else zero."""
        word = self.res1
        for name, value in values.items():
            word = self[name].put(word, value)
        return word

    def unnamed(self, value: int) -> tuple[int, int]:
        """(RES0 bits that are set, RES1 bits that are clear) in *value*."""
        return value & ~self.named & ~self.res1 & ones(self.width), self.res1 & ~value
