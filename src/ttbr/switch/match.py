"""One attempt to fit the operands of a statement to a form.

A matcher is a function of a `Match`: it takes operands, appends their meaning to `out`, and returns
whether they fit; when they do not, `why` says what is wrong.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ttbr.switch.operands import Operand, Register
from ttbr.switch.syntax import Name, Parsed, Scanner, Shift

__all__ = ["Match", "Matcher", "number_between"]


@dataclass(slots=True)
class Match:
    """The operands of one statement, and how far one form has got with them.

    `width` is that of the first register; `address` is the instruction's.
    """

    mnemonic: str
    parsed: list[Parsed]
    address: int
    scanner: Scanner
    index: int = 0
    width: int = 0
    out: list[Operand] = field(default_factory=list)
    why: str = ""

    def take(self) -> Parsed | None:
        if self.index == len(self.parsed):
            self.why = "too few operands"
            return None
        self.index += 1
        return self.parsed[self.index - 1]

    def fail(self, why: str) -> bool:
        self.why = why
        return False

    def register(self, widths: tuple[int, ...], sp: bool) -> Register | None:
        found = self.take()
        if found is None:
            return None
        value = found.value
        if not isinstance(value, Register):
            self.why = "expected a register"
        elif value.width not in widths:
            self.why = f"expected a {widths[0]}-bit register"
        elif value.number == 31 and value.sp != sp:
            self.why = "the stack pointer is not possible here" if value.sp else "not xzr or wzr"
        else:
            return value
        return None

    def name(self) -> str | None:
        found = self.take()
        if found is None:
            return None
        if not isinstance(found.value, Name):
            self.why = "expected a name"
            return None
        return found.value.text.upper()

    def number(self, low: int, high: int) -> int | None:
        """An immediate between *low* and *high*, a constant symbol included."""
        found = self.take()
        if found is None:
            return None
        value: object = found.value
        if isinstance(value, Name):
            name, value = value.text, self.scanner.symbols(value.text)
            if value is None:
                self.why = f"{name} is not defined"
                return None
        if not isinstance(value, int):
            self.why = "expected an immediate"
            return None
        if not low <= value <= high:
            self.why = f"immediate {value:#x} is not in {low:#x} to {high:#x}"
            return None
        return value

    def shift(self, kinds: Iterable[str], low: int, high: int) -> Shift | None:
        """An optional shift; `None` when the next operand is not one."""
        if self.index == len(self.parsed):
            return None
        value = self.parsed[self.index].value
        if not isinstance(value, Shift) or value.kind not in kinds:
            return None
        if not low <= (value.amount or 0) <= high:
            return None
        self.index += 1
        return value


Matcher = Callable[[Match], bool]


def number_between(low: int, high: int) -> Matcher:
    """A matcher of an immediate in a range."""

    def match(m: Match) -> bool:
        value = m.number(low, high)
        if value is None:
            return False
        m.out.append(value)
        return True

    return match
