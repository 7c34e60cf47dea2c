"""Machine code, from bytes or from an ELF file, into the same instructions as assembly text.

A word is first put into words, then read by the one parser: the system instructions by the few
fields that their encoding has, everything else by capstone. What the parser does not know is
refused with its address.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ttbr.arch.bits import bits
from ttbr.errors import InvalidError, MemoryFault, UnreadableError, UnsupportedError
from ttbr.switch.forms import match_operands
from ttbr.switch.instructions import BARRIERS, HINTS
from ttbr.switch.program import Instruction
from ttbr.switch.syntax import Scanner
from ttbr.switch.sysregs import PSTATE_FIELDS, operation_encoding, register_at
from ttbr.switch.tlbi import tlbi_by_encoding

__all__ = ["MachineCode", "decode", "from_elf"]


@dataclass(frozen=True, slots=True)
class MachineCode:
    """Code bytes at `base` (a `Code`); `entry` is where the program starts.

    `symbols` names addresses for the trace.
    """

    data: bytes
    base: int
    entry: int
    symbols: Mapping[str, int] = field(default_factory=dict)
    _decoded: dict[int, Instruction] = field(default_factory=dict, repr=False)
    _ordered: list[tuple[int, str]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._ordered.extend(sorted((value, name) for name, value in self.symbols.items()))

    def fetch(self, pc: int) -> Instruction | None:
        """The instruction at *pc*; `UnsupportedError` when it is not modelled."""
        if not self.holds(pc):
            return None
        if pc % 4:
            raise InvalidError(f"{pc:#x}: the PC is not a multiple of 4")
        if pc not in self._decoded:
            word = int.from_bytes(self.read(pc, 4), "little")
            self._decoded[pc] = decode(word, pc, self.where(pc))
        return self._decoded[pc]

    def holds(self, pc: int) -> bool:
        """Whether there is an instruction at *pc*."""
        return self.base <= pc < self.base + len(self.data) - 3

    def end_of(self, pc: int) -> int:
        """The end of the routine at *pc*: the next symbol, or the end of the code."""
        index = bisect_right(self._ordered, pc, key=lambda pair: pair[0])
        return self._ordered[index][0] if index < len(self._ordered) else self.base + len(self.data)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the code."""
        start = address - self.base
        if start < 0 or start + size > len(self.data):
            raise MemoryFault(address, size, "not in the code")
        return self.data[start : start + size]

    def where(self, pc: int) -> str:
        """``symbol+0x4``, or an empty string."""
        index = bisect_right(self._ordered, pc, key=lambda pair: pair[0]) - 1
        if index < 0:
            return ""
        value, name = self._ordered[index]
        return f"{name}+{pc - value:#x}"


@cache
def _disassembler() -> Any:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)


def _system_text(word: int) -> str | None:
    """A word of the system instruction space as text (C4.1.94); None for what is not modelled."""
    op0, op1, crn, crm, op2 = (
        bits(word, 20, 19),
        bits(word, 18, 16),
        bits(word, 15, 12),
        bits(word, 11, 8),
        bits(word, 7, 5),
    )
    read, rt = bits(word, 21, 21), bits(word, 4, 0)
    register = f"x{rt}" if rt < 31 else "xzr"
    if op0 >= 2:
        name = register_at((op0, op1, crn, crm, op2))
        return f"mrs {register}, {name}" if read else f"msr {name}, {register}"
    if read:
        return None
    if op0 == 1:
        return _operation_text((op1, crn, crm, op2), rt, register)
    if rt != 31:
        return None
    if crn == 4:
        for name, place in PSTATE_FIELDS.items():
            if place == (op1, op2):
                return f"msr {name.lower()}, #{crm}"
        return None
    if op1 != 3:
        return None
    return _hint_text(crm << 3 | op2) if crn == 2 else _barrier_text(crn, crm, op2)


def _operation_text(encoding: tuple[int, int, int, int], rt: int, register: str) -> str | None:
    tlbi = tlbi_by_encoding(*encoding)
    if tlbi is not None:
        if tlbi.operand:
            return f"tlbi {tlbi.name.lower()}, {register}"
        return f"tlbi {tlbi.name.lower()}" if rt == 31 else None
    found = operation_encoding(encoding)
    if found is None:
        return None
    mnemonic, name = found
    if name in ("IALLU", "IALLUIS"):
        return f"{mnemonic} {name.lower()}" if rt == 31 else None
    return f"{mnemonic} {name.lower()}, {register}"


def _hint_text(number: int) -> str:
    for name, value in HINTS.items():
        if value == number:
            return name
    targets = {32: "bti", 34: "bti c", 36: "bti j", 38: "bti jc"}
    return targets.get(number, f"hint #{number}")


def _barrier_text(crn: int, crm: int, op2: int) -> str | None:
    if crn != 3:
        return None
    if op2 == 6:
        return "isb" if crm == 15 else None
    if op2 == 2:
        return f"clrex #{crm}"
    if op2 == 7:
        return "sb" if crm == 0 else None
    if op2 == 4 and crm in (0, 4):
        return "pssbb" if crm else "ssbb"
    if op2 == 1 and crm & 3 == 2:
        return f"dsb {('osh', 'nsh', 'ish', 'sy')[crm >> 2]}nxs"
    options = {number: name for name, (number, _, _) in BARRIERS.items()}
    mnemonic = {4: "dsb", 5: "dmb"}.get(op2)
    return f"{mnemonic} {options[crm]}" if mnemonic and crm in options else None


def _text(word: int, address: int) -> str | None:
    if bits(word, 31, 22) == 0b1101010100:
        return _system_text(word)
    for _, _, mnemonic, operands in _disassembler().disasm_lite(
        word.to_bytes(4, "little"), address
    ):
        return f"{mnemonic} {operands}".strip()
    return None


def decode(word: int, address: int, where: str = "") -> Instruction:
    """The instruction that *word* is at *address*; `UnsupportedError` when it is not modelled."""
    text = _text(word, address)
    if text is None:
        raise UnsupportedError(f"{address:#x}: {word:#010x}: this instruction is not modelled")
    mnemonic, _, rest = text.partition(" ")
    try:
        scanner = Scanner(rest, f"{address:#x}")
        found = match_operands(mnemonic, scanner, scanner.operands(), address, 1)
    except InvalidError:
        message = f"{address:#x}: {text}: this instruction is not modelled"
        raise UnsupportedError(message) from None
    return Instruction(*found, text, where)


def from_elf(path: str, symbol: str, at: int | None = None) -> MachineCode:
    """The code of an ELF file, to be run from *symbol*.

    The whole segment that holds the symbol is there, so calls within it can be followed. *at* is
    the address where the symbol is when it runs, by default the one it was linked for.
    `UnreadableError` for a file that is not an AArch64 ELF with that symbol.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with open(path, "rb") as stream:
            elf = ELFFile(stream)
            if elf["e_machine"] != "EM_AARCH64" or not elf.little_endian:
                raise UnreadableError(f"{path}: not a little-endian AArch64 ELF file")
            return _segment_with(elf, path, symbol, at)
    except (OSError, ELFError) as error:
        raise UnreadableError(f"{path}: {error}") from error


def _segment_with(elf: Any, path: str, symbol: str, at: int | None) -> MachineCode:
    table = elf.get_section_by_name(".symtab")
    symbols = {s.name: s["st_value"] for s in table.iter_symbols() if s.name} if table else {}
    if symbol not in symbols:
        raise UnreadableError(f"{path}: no symbol {symbol}")
    value = symbols[symbol]
    for segment in elf.iter_segments("PT_LOAD"):
        start = segment["p_vaddr"]
        if start <= value < start + segment["p_filesz"]:
            moved = 0 if at is None else at - value
            names = {
                name: address + moved
                for name, address in symbols.items()
                if start <= address < start + segment["p_filesz"] and name[0] != "$"
            }
            return MachineCode(segment.data(), start + moved, value + moved, names)
    raise UnreadableError(f"{path}: {symbol} at {value:#x} is in no loaded segment")
