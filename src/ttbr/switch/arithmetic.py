"""Data-processing instructions as functions on unsigned integers (Arm ARM C6.2).

`OPERATIONS` has one row for each mnemonic: a function of the operand width (32 or 64) and of the
source values, which are already cut to their own widths. Its result may be wider than the
destination; the interpreter cuts it. A row that sets flags returns ``(value, NZCV)``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ttbr.arch.bits import ones

__all__ = ["CONDITIONS", "OPERATIONS", "Operation", "holds", "shifted"]

CONDITIONS = (
    "EQ",
    "NE",
    "CS",
    "CC",
    "MI",
    "PL",
    "VS",
    "VC",
    "HI",
    "LS",
    "GE",
    "LT",
    "GT",
    "LE",
    "AL",
    "NV",
)


def holds(condition: str, nzcv: int) -> bool:
    """ConditionHolds(): whether *condition* is true for the flags *nzcv* (N is bit 3)."""
    n, z, c, v = (bool(nzcv >> i & 1) for i in (3, 2, 1, 0))
    code = CONDITIONS.index(condition)
    result = (z, c, n, v, c and not z, n == v, n == v and not z, True)[code >> 1]
    return not result if code & 1 and condition != "NV" else result


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) & 1 else value


def shifted(value: int, width: int, kind: str, amount: int) -> int:
    """ShiftReg() or ExtendReg() of a *width*-bit value; an extension's result is 64 bits wide."""
    if kind == "lsl":
        return value << amount & ones(width)
    if kind == "lsr":
        return value >> amount
    if kind == "asr":
        return _signed(value, width) >> amount & ones(width)
    if kind == "ror":
        return (value >> amount | value << (width - amount)) & ones(width)
    size = {"b": 8, "h": 16, "w": 32, "x": 64}[kind[3]]
    part = value & ones(size)
    if kind[0] == "s":
        part = _signed(part, size)
    return part << amount & ones(64)


def _add_with_carry(w: int, n: int, m: int, carry: int) -> tuple[int, int]:
    total = n + m + carry
    result = total & ones(w)
    signed = _signed(n, w) + _signed(m, w) + carry
    return result, _nz(w, result) | (total >> w & 1) << 1 | (signed != _signed(result, w))


def _nz(w: int, result: int) -> int:
    return (result >> (w - 1) & 1) << 3 | (result == 0) << 2


def _subs(w: int, n: int, m: int) -> tuple[int, int]:
    return _add_with_carry(w, n, ~m & ones(w), 1)


def _adds(w: int, n: int, m: int) -> tuple[int, int]:
    return _add_with_carry(w, n, m, 0)


def _ands(w: int, n: int, m: int) -> tuple[int, int]:
    result = n & m & ones(w)
    return result, _nz(w, result)


def _sbcs(w: int, carry: int, n: int, m: int) -> tuple[int, int]:
    return _add_with_carry(w, n, ~m & ones(w), carry)


def _ubfx(w: int, n: int, lsb: int, width: int) -> int:
    return n >> lsb & ones(width)


def _sbfx(w: int, n: int, lsb: int, width: int) -> int:
    return _signed(n >> lsb & ones(width), width)


def _ubfiz(w: int, n: int, lsb: int, width: int) -> int:
    return (n & ones(width)) << lsb


def _sbfiz(w: int, n: int, lsb: int, width: int) -> int:
    return _signed(n & ones(width), width) << lsb


def _bfi(w: int, old: int, n: int, lsb: int, width: int) -> int:
    mask = ones(width) << lsb
    return old & ~mask | n << lsb & mask


def _bfxil(w: int, old: int, n: int, lsb: int, width: int) -> int:
    return old & ~ones(width) | n >> lsb & ones(width)


def _ubfm(w: int, n: int, r: int, s: int) -> int:
    return _ubfx(w, n, r, s - r + 1) if s >= r else _ubfiz(w, n, w - r, s + 1)


def _sbfm(w: int, n: int, r: int, s: int) -> int:
    return _sbfx(w, n, r, s - r + 1) if s >= r else _sbfiz(w, n, w - r, s + 1)


def _bfm(w: int, old: int, n: int, r: int, s: int) -> int:
    return _bfxil(w, old, n, r, s - r + 1) if s >= r else _bfi(w, old, n, w - r, s + 1)


def _reversed(width: int, n: int, group: int) -> int:
    """The bytes of each *group* bytes in the opposite order."""
    data = n.to_bytes(width // 8, "little")
    parts = (data[i : i + group][::-1] for i in range(0, len(data), group))
    return int.from_bytes(b"".join(parts), "little")


def _sdiv(w: int, n: int, m: int) -> int:
    """Division rounds towards zero; by zero it gives zero."""
    a, b = _signed(n, w), _signed(m, w)
    quotient = abs(a) // abs(b) if b else 0
    return -quotient if (a < 0) != (b < 0) else quotient


def _wide(old: int, value: int, shift: int) -> int:
    return old & ~(0xFFFF << shift) | value << shift


@dataclass(frozen=True, slots=True)
class Operation:
    """A row: the function, whether it writes a register and flags, and what it reads unnamed.

    `reads` is ``destination`` (the old value comes first) or ``carry`` (the C flag comes first).
    """

    compute: Callable[..., int | tuple[int, int]]
    destination: bool = True
    flags: bool = False
    reads: str = ""


def _ccmp(w: int, n: int, m: int, otherwise: int, condition: bool) -> tuple[int, int]:
    return _subs(w, n, m) if condition else (0, otherwise)


def _ccmn(w: int, n: int, m: int, otherwise: int, condition: bool) -> tuple[int, int]:
    return _adds(w, n, m) if condition else (0, otherwise)


_OLD = "destination"

OPERATIONS: dict[str, Operation] = {
    "mov": Operation(lambda w, n: n),
    "mvn": Operation(lambda w, n: ~n),
    "movz": Operation(lambda w, n, s: n << s),
    "movn": Operation(lambda w, n, s: ~(n << s)),
    "movk": Operation(lambda w, old, n, s: _wide(old, n, s), reads=_OLD),
    "add": Operation(lambda w, n, m: n + m),
    "sub": Operation(lambda w, n, m: n - m),
    "adds": Operation(_adds, flags=True),
    "subs": Operation(_subs, flags=True),
    "cmp": Operation(_subs, False, True),
    "cmn": Operation(_adds, False, True),
    "neg": Operation(lambda w, m: -m),
    "negs": Operation(lambda w, m: _subs(w, 0, m), flags=True),
    "adc": Operation(lambda w, c, n, m: n + m + c, reads="carry"),
    "adcs": Operation(lambda w, c, n, m: _add_with_carry(w, n, m, c), flags=True, reads="carry"),
    "sbc": Operation(lambda w, c, n, m: n - m - 1 + c, reads="carry"),
    "sbcs": Operation(_sbcs, flags=True, reads="carry"),
    "ngc": Operation(lambda w, c, m: -m - 1 + c, reads="carry"),
    "ngcs": Operation(lambda w, c, m: _sbcs(w, c, 0, m), flags=True, reads="carry"),
    "and": Operation(lambda w, n, m: n & m),
    "orr": Operation(lambda w, n, m: n | m),
    "eor": Operation(lambda w, n, m: n ^ m),
    "bic": Operation(lambda w, n, m: n & ~m),
    "orn": Operation(lambda w, n, m: n | ~m),
    "eon": Operation(lambda w, n, m: n ^ ~m),
    "ands": Operation(_ands, flags=True),
    "bics": Operation(lambda w, n, m: _ands(w, n, ~m), flags=True),
    "tst": Operation(_ands, False, True),
    "lsl": Operation(lambda w, n, m: n << m % w),
    "lsr": Operation(lambda w, n, m: n >> m % w),
    "asr": Operation(lambda w, n, m: _signed(n, w) >> m % w),
    "ror": Operation(lambda w, n, m: shifted(n, w, "ror", m % w)),
    "extr": Operation(lambda w, n, m, lsb: (n << w | m) >> lsb),
    "ubfx": Operation(_ubfx),
    "sbfx": Operation(_sbfx),
    "ubfiz": Operation(_ubfiz),
    "sbfiz": Operation(_sbfiz),
    "bfi": Operation(_bfi, reads=_OLD),
    "bfxil": Operation(_bfxil, reads=_OLD),
    "bfc": Operation(lambda w, old, lsb, n: old & ~(ones(n) << lsb), reads=_OLD),
    "ubfm": Operation(_ubfm),
    "sbfm": Operation(_sbfm),
    "bfm": Operation(_bfm, reads=_OLD),
    "uxtb": Operation(lambda w, n: n & 0xFF),
    "uxth": Operation(lambda w, n: n & 0xFFFF),
    "uxtw": Operation(lambda w, n: n),
    "sxtb": Operation(lambda w, n: _signed(n & 0xFF, 8)),
    "sxth": Operation(lambda w, n: _signed(n & 0xFFFF, 16)),
    "sxtw": Operation(lambda w, n: _signed(n, 32)),
    "clz": Operation(lambda w, n: w - n.bit_length()),
    "cls": Operation(lambda w, n: w - 1 - ((n ^ n >> 1) & ones(w - 1)).bit_length()),
    "rbit": Operation(lambda w, n: int(f"{n:0{w}b}"[::-1], 2)),
    "rev": Operation(lambda w, n: _reversed(w, n, w // 8)),
    "rev16": Operation(lambda w, n: _reversed(w, n, 2)),
    "rev32": Operation(lambda w, n: _reversed(w, n, 4)),
    "mul": Operation(lambda w, n, m: n * m),
    "mneg": Operation(lambda w, n, m: -n * m),
    "madd": Operation(lambda w, n, m, a: a + n * m),
    "msub": Operation(lambda w, n, m, a: a - n * m),
    "umull": Operation(lambda w, n, m: n * m),
    "umnegl": Operation(lambda w, n, m: -n * m),
    "umaddl": Operation(lambda w, n, m, a: a + n * m),
    "umsubl": Operation(lambda w, n, m, a: a - n * m),
    "smull": Operation(lambda w, n, m: _signed(n, 32) * _signed(m, 32)),
    "smnegl": Operation(lambda w, n, m: -_signed(n, 32) * _signed(m, 32)),
    "smaddl": Operation(lambda w, n, m, a: a + _signed(n, 32) * _signed(m, 32)),
    "smsubl": Operation(lambda w, n, m, a: a - _signed(n, 32) * _signed(m, 32)),
    "umulh": Operation(lambda w, n, m: n * m >> 64),
    "smulh": Operation(lambda w, n, m: _signed(n, 64) * _signed(m, 64) >> 64),
    "udiv": Operation(lambda w, n, m: n // m if m else 0),
    "sdiv": Operation(_sdiv),
    "csel": Operation(lambda w, n, m, c: n if c else m),
    "csinc": Operation(lambda w, n, m, c: n if c else m + 1),
    "csinv": Operation(lambda w, n, m, c: n if c else ~m),
    "csneg": Operation(lambda w, n, m, c: n if c else -m),
    "cset": Operation(lambda w, c: int(c)),
    "csetm": Operation(lambda w, c: -int(c)),
    "cinc": Operation(lambda w, n, c: n + int(c)),
    "cinv": Operation(lambda w, n, c: ~n if c else n),
    "cneg": Operation(lambda w, n, c: -n if c else n),
    "ccmp": Operation(_ccmp, False, True),
    "ccmn": Operation(_ccmn, False, True),
}
"""Data-processing rows by mnemonic; `ttbr.switch.instructions` has their operand forms."""
