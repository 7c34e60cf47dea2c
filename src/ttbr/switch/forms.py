"""What each operand class of `ttbr.switch.instructions` takes: types, ranges, encodability.

Immediates are checked as the encoding has them, so what is accepted here is what the assembler
accepts.
"""

from ttbr.arch.bits import ones
from ttbr.errors import UnsupportedError
from ttbr.switch.addressing import ADDRESSING
from ttbr.switch.arithmetic import CONDITIONS
from ttbr.switch.instructions import FORMS
from ttbr.switch.match import Match, Matcher, number_between
from ttbr.switch.operands import Condition, Operand, Relative, Shifted
from ttbr.switch.syntax import Parsed, Part, Scanner
from ttbr.switch.systemforms import SYSTEM_OPERANDS

__all__ = ["condition_of", "match_operands", "wide_constant"]

_SYNONYMS = {"HS": "CS", "LO": "CC"}


def _same_width(m: Match, sp: bool) -> bool:
    widths = (m.width,) if m.width else (64, 32)
    register = m.register(widths, sp)
    if register is None:
        return False
    m.width = register.width
    m.out.append(register)
    return True


def _fixed(width: int) -> Matcher:
    def match(m: Match) -> bool:
        register = m.register((width,), False)
        if register is None:
            return False
        m.width = m.width or width
        m.out.append(register)
        return True

    return match


def _either(m: Match) -> bool:
    register = m.register((64, 32), False)
    if register is None:
        return False
    m.width = register.width
    m.out.append(register)
    return True


def _shifted_register(*kinds: str) -> Matcher:
    def match(m: Match) -> bool:
        if not _same_width(m, False):
            return False
        shift = m.shift(kinds, 0, m.width - 1)
        if shift is not None:
            if shift.amount is None:
                return m.fail("the shift needs an amount")
            m.out[-1] = Shifted(m.out[-1], shift.kind, shift.amount)  # type: ignore[arg-type]
        return True

    return match


def _extended_register(m: Match) -> bool:
    register = m.register((64, 32), False)
    if register is None:
        return False
    kinds = ("uxtb", "uxth", "uxtw", "uxtx", "sxtb", "sxth", "sxtw", "sxtx", "lsl")
    shift = m.shift(kinds, 0, 4)
    kind = shift.kind if shift else "lsl"
    if kind == "lsl":
        if register.width != m.width or (shift and shift.amount is None):
            return m.fail("expected an extension")
        kind = "uxtx" if m.width == 64 else "uxtw"
    if register.width != (64 if kind[3] == "x" and m.width == 64 else 32):
        return m.fail(f"{kind} does not fit the register")
    m.out.append(Shifted(register, kind, (shift.amount or 0) if shift else 0))
    return True


# What GNU as makes of an immediate that the instruction does not have: the opposite one.
OPPOSITE = {
    "add": "sub",
    "sub": "add",
    "adds": "subs",
    "subs": "adds",
    "cmp": "cmn",
    "cmn": "cmp",
    "bic": "and",
}


def _arithmetic_immediate(m: Match) -> bool:
    """12 bits, perhaps shifted left by 12; a negative one for the opposite instruction."""
    value = m.number(-0xFFFFFF, 0xFFFFFF)
    if value is None:
        return False
    if value < 0:
        m.mnemonic, value = OPPOSITE[m.mnemonic], -value
    shift = m.shift(("lsl",), 0, 12)
    if shift is not None:
        if shift.amount not in (0, 12) or value > 0xFFF:
            return m.fail("expected a 12-bit immediate with lsl #0 or lsl #12")
        value <<= shift.amount
    elif value > 0xFFF and value & 0xFFF:
        return m.fail(f"immediate {value:#x} is neither 12 bits nor 12 bits shifted by 12")
    m.out.append(value)
    return True


def _encodable_mask(value: int, width: int) -> bool:
    """Whether *value* is a bitmask immediate: a rotated run of ones, repeated (DecodeBitMasks)."""
    size = width
    if value in (0, ones(width)):
        return False
    while size > 2 and value & ones(size // 2) == value >> (size // 2) & ones(size // 2):
        size //= 2
        value &= ones(size)
    element = value & ones(size)
    rotated = element >> 1 | (element & 1) << (size - 1)
    return (element ^ rotated).bit_count() == 2


def wide_constant(value: int, width: int) -> bool:
    """Whether one MOVZ or MOVN makes *value*."""
    return any(
        v & ~(0xFFFF << shift) & ones(width) == 0
        for v in (value, ~value & ones(width))
        for shift in range(0, width, 16)
    )


def _wrapped(m: Match, value: int) -> int | None:
    """*value* as the unsigned word of the instruction's width."""
    if -(1 << (m.width - 1)) <= value < 1 << m.width:
        return value & ones(m.width)
    m.why = f"{value:#x} does not fit in {m.width} bits"
    return None


def _logical_immediate(m: Match) -> bool:
    value = m.number(-(1 << 63), ones(64))
    value = None if value is None else _wrapped(m, value)
    if value is None:
        return False
    if not _encodable_mask(value, m.width):
        return m.fail(f"{value:#x} is not a bitmask immediate")
    m.out.append(value)
    return True


def _inverted_immediate(m: Match) -> bool:
    """BIC is AND of the immediate inverted."""
    value = m.number(-(1 << 63), ones(64))
    value = None if value is None else _wrapped(m, value)
    if value is None:
        return False
    value ^= ones(m.width)
    if not _encodable_mask(value, m.width):
        return m.fail(f"{value ^ ones(m.width):#x} is not the inverse of a bitmask immediate")
    m.mnemonic = OPPOSITE[m.mnemonic]
    m.out.append(value)
    return True


def _constant(m: Match) -> bool:
    value = m.number(-(1 << 63), ones(64))
    value = None if value is None else _wrapped(m, value)
    if value is None:
        return False
    if not wide_constant(value, m.width):
        return m.fail(f"{value:#x} cannot be moved by one instruction")
    m.out.append(value)
    return True


def _wide(m: Match) -> bool:
    part = m.parsed[m.index].value if m.index < len(m.parsed) else None
    if isinstance(part, Part):
        m.index += 1
        m.out += [part.value, part.shift]
        return part.shift < m.width or m.fail("the part lies above a 32-bit register")
    value = m.number(0, 0xFFFF)
    if value is None:
        return False
    shift = m.shift(("lsl",), 0, m.width - 16)
    amount = shift.amount if shift else 0
    if amount is None or amount % 16:
        return m.fail("expected lsl #0, #16, #32 or #48")
    m.out += [value, amount]
    return True


def _amount(m: Match) -> bool:
    return number_between(0, m.width - 1)(m)


def _field(m: Match) -> bool:
    """lsb and width of a bit field."""
    lsb = m.number(0, m.width - 1)
    width = None if lsb is None else m.number(1, m.width - lsb)
    if lsb is None or width is None:
        return False
    m.out += [lsb, width]
    return True


def _condition(m: Match, invertible: bool) -> bool:
    name = m.name()
    if name is None:
        return False
    name = _SYNONYMS.get(name, name)
    if name not in CONDITIONS or (invertible and name in ("AL", "NV")):
        return m.fail(f"{name} is not a condition that can stand here")
    m.out.append(Condition(name))
    return True


def _target(bits_: int, scale: int) -> Matcher:
    """A PC-relative target: a signed field of *bits_* bits in units of *scale* bytes."""

    def match(m: Match) -> bool:
        target = m.number(-(1 << 63), ones(64))
        if target is None:
            return False
        page = scale == 4096
        offset = (target & ~0xFFF) - (m.address & ~0xFFF) if page else target - m.address
        offset = ((offset + (1 << 63)) & ones(64)) - (1 << 63)
        if offset % scale or not -(1 << (bits_ - 1)) <= offset // scale < 1 << (bits_ - 1):
            return m.fail(f"target {target & ones(64):#x} is out of range or misaligned")
        m.out.append(Relative(offset, page))
        return True

    return match


_CLASSES: dict[str, Matcher] = {
    "R": lambda m: _same_width(m, False),
    "S": lambda m: _same_width(m, True),
    "X": _fixed(64),
    "W": _fixed(32),
    "V": _either,
    "Rsh": _shifted_register("lsl", "lsr", "asr"),
    "Rror": _shifted_register("lsl", "lsr", "asr", "ror"),
    "Vext": _extended_register,
    "arith": _arithmetic_immediate,
    "logical": _logical_immediate,
    "inverted": _inverted_immediate,
    "constant": _constant,
    "wide": _wide,
    "amount": _amount,
    "field": _field,
    "bit": _amount,
    "cond": lambda m: _condition(m, False),
    "condx": lambda m: _condition(m, True),
    "nzcv": number_between(0, 15),
    "u4": number_between(0, 15),
    "u5": number_between(0, 31),
    "u7": number_between(0, 127),
    "u16": number_between(0, 0xFFFF),
    "near": _target(21, 1),
    "page": _target(21, 4096),
    "literal": _target(19, 4),
    "label14": _target(14, 4),
    "label19": _target(19, 4),
    "label26": _target(26, 4),
    **ADDRESSING,
    **SYSTEM_OPERANDS,
}


def match_operands(
    mnemonic: str, scanner: Scanner, parsed: list[Parsed], address: int, column: int
) -> tuple[str, tuple[Operand, ...], int]:
    """(mnemonic, operands, width) of a statement whose operands are already parsed.

    The mnemonic changes for SYS and for immediates that only the opposite instruction has.
    `UnsupportedError` for
    a mnemonic that is not in `FORMS`, `InvalidError` for operands that fit none of its forms; both
    with line and column.
    """
    if mnemonic not in FORMS:
        message = f"{scanner.where}:{column}: {mnemonic}: this instruction is not modelled"
        raise UnsupportedError(message)
    furthest: Match | None = None
    for form in FORMS[mnemonic]:
        m = Match(mnemonic, parsed, address, scanner)
        if all(_CLASSES[name](m) for name in form.split()):
            if m.index == len(parsed):
                return m.mnemonic, tuple(m.out), m.width or 64
            m.index += 1
            m.why = "unexpected operand"
        if furthest is None or m.index > furthest.index:
            furthest = m
    at = max(0, min(furthest.index, len(parsed)) - 1) if furthest else 0
    place = parsed[at].column if parsed else column
    raise scanner.error_at(f"{mnemonic}: {furthest.why if furthest else 'operands'}", place)


def condition_of(mnemonic: str) -> str:
    """The condition of ``b.cond``."""
    name = mnemonic[2:].upper()
    return _SYNONYMS.get(name, name)
