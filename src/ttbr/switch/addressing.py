"""Memory operands: which addressing modes a load or store has, and their ranges (C1.3.3)."""

from ttbr.arch.bits import ones
from ttbr.switch.instructions import ACCESSES
from ttbr.switch.match import Match, Matcher
from ttbr.switch.operands import Memory, Shifted
from ttbr.switch.syntax import Address, Shift

__all__ = ["ADDRESSING"]


def _address(m: Match, size: int, low: int, high: int, scaled: bool) -> Memory | None:
    """``[...]`` with an offset between *low* and *high* bytes, or post-indexed by one."""
    found = m.take()
    if found is None or not isinstance(found.value, Address):
        m.why = m.why or "expected a memory operand"
        return None
    a = found.value
    if a.base is None:
        if a.writeback:
            m.why = "a named place cannot be written back"
            return None
        return Memory(None, (a.offset or 0) & ones(64))
    if a.base.width != 64 or (a.base.number == 31 and not a.base.sp):
        m.why = "the base must be x0-x30 or sp"
        return None
    if a.index is not None:
        m.why = "no register offset is possible here"
        return None
    if a.writeback and a.offset is None:
        m.why = "expected an offset before !"
        return None
    mode, offset = ("pre" if a.writeback else "offset"), a.offset or 0
    following = m.parsed[m.index].value if m.index < len(m.parsed) else None
    if following is not None and a.offset is None and isinstance(following, int):
        mode, offset = "post", following
        m.index += 1
    offset -= (offset >> 63 << 64) if offset > 0 else 0
    if not low <= offset <= high or (scaled and offset % size):
        m.why = f"offset {offset} is not possible here"
        return None
    return Memory(a.base, offset, None, mode)


def _size(m: Match) -> int:
    return ACCESSES[m.mnemonic].size or m.width // 8


def _memory(m: Match) -> bool:
    """Scaled unsigned offset, signed 9-bit offset, pre- or post-index, or a register offset."""
    size = _size(m)
    a = m.parsed[m.index].value if m.index < len(m.parsed) else None
    if isinstance(a, Address) and a.base is not None and a.index is not None:
        m.index += 1
        return _indexed(m, a, size)
    place = _address(m, size, -256, 4095 * size, False)
    if place is None:
        return False
    small = -256 <= place.offset <= 255
    if not small and (place.mode != "offset" or place.offset % size) and place.base is not None:
        return m.fail(f"offset {place.offset} is not possible here")
    m.out.append(place)
    return True


def _indexed(m: Match, a: Address, size: int) -> bool:
    shift = a.shift or Shift("lsl", None)
    index = a.index
    if index is None or a.base is None or a.writeback or a.base.width != 64:
        return m.fail("a register offset cannot be written back")
    if index.sp or (a.base.number == 31 and not a.base.sp):
        return m.fail("the registers do not fit a register offset")
    if shift.kind not in ("lsl", "uxtw", "sxtw", "sxtx"):
        return m.fail(f"{shift.kind} is not possible here")
    if index.width != (32 if shift.kind[3:] == "w" else 64):
        return m.fail(f"{shift.kind} does not fit the register")
    if (a.shift is not None and shift.kind == "lsl" and shift.amount is None) or (
        shift.amount not in (None, 0, size.bit_length() - 1)
    ):
        return m.fail("the amount must be 0 or log2 of the access size")
    kind = "uxtx" if shift.kind == "lsl" else shift.kind
    m.out.append(Memory(a.base, 0, Shifted(index, kind, shift.amount or 0)))
    return True


def _unscaled(m: Match) -> bool:
    place = _address(m, 1, -256, 255, False)
    return _append_place(m, place, place is not None and place.mode == "offset")


def _ordered(m: Match) -> bool:
    place = _address(m, 1, 0, 0, False)
    return _append_place(m, place, place is not None and place.mode == "offset")


def _pair(m: Match) -> bool:
    size = _size(m)
    return _append_place(m, _address(m, size, -64 * size, 63 * size, True), True)


def _pair_offset(m: Match) -> bool:
    size = _size(m)
    place = _address(m, size, -64 * size, 63 * size, True)
    return _append_place(m, place, place is not None and place.mode == "offset")


def _append_place(m: Match, place: Memory | None, fits: bool) -> bool:
    if place is None:
        return False
    if not fits:
        return m.fail("only an offset is possible here")
    m.out.append(place)
    return True


ADDRESSING: dict[str, Matcher] = {
    "memory": _memory,
    "unscaled": _unscaled,
    "ordered": _ordered,
    "pair": _pair,
    "pair_offset": _pair_offset,
}
"""Operand classes of `ttbr.switch.instructions` that are addresses."""
