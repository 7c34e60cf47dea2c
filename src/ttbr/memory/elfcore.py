"""The program headers and notes of an ELF core, read by a few own lines.

Only what a core of an AArch64 machine has is accepted: ELF64, little-endian, ET_CORE, EM_AARCH64.
`parse_core` takes the file's bytes (mapped or decompressed); nothing but headers and notes is read.
Note types: NT_PRSTATUS (1) carries PSTATE; a note named ``AARCH64-SYSREGS`` carries NAME=value
lines of system registers.
"""

import struct

from ttbr.arch.registers import arm_name
from ttbr.errors import InvalidError, UnreadableError
from ttbr.memory.segments import Buffer, Segment, SegmentMemory
from ttbr.record import record

__all__ = ["Core", "parse_core"]

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NHDR = struct.Struct("<III")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_PN_XNUM = 0xFFFF  # e_phnum of a core with more headers: section header 0 has the count, sh_info
_ET_CORE, _EM_AARCH64, _PT_LOAD, _PT_NOTE, _NT_PRSTATUS = 4, 183, 1, 4, 1
_MACHINES = {3: "x86", 40: "32-bit Arm", 62: "x86-64", 243: "RISC-V", 21: "PowerPC64", 22: "S390"}
_TYPES = {1: "a relocatable object", 2: "an executable", 3: "a shared object"}
# struct elf_prstatus of arm64 Linux: 112 bytes, then x0-x30, sp, pc, pstate.
_GENERAL_OFFSET = 112
_GENERAL = (*(f"x{number}" for number in range(31)), "sp", "pc", "pstate")
_NOTE_LIMIT = 1 << 20


@record
class Core:
    """`registers` (system), `pstate` and `general` (x0-x30, sp, pc) are what the notes have."""

    memory: SegmentMemory
    registers: dict[str, int]
    pstate: int | None
    general: dict[str, int]


def _header(data: Buffer, name: str) -> tuple[int, int, int]:
    """(offset, entry size, count) of the program headers, after the checks."""
    if len(data) < _EHDR.size:
        raise UnreadableError(f"{name}: truncated ELF header ({len(data)} bytes)")
    ident, kind, machine, _, _, phoff, shoff, _, _, size, count, *_ = _EHDR.unpack(
        data[: _EHDR.size]
    )
    if ident[4] != 2:
        raise UnreadableError(f"{name}: not a 64-bit ELF file (EI_CLASS={ident[4]})")
    if ident[5] != 1:
        raise UnreadableError(f"{name}: not little-endian (EI_DATA={ident[5]})")
    if machine != _EM_AARCH64:
        what = _MACHINES.get(machine, "another architecture")
        raise UnreadableError(f"{name}: a core of {what} (e_machine={machine}), not of AArch64")
    if kind != _ET_CORE:
        raise UnreadableError(f"{name}: {_TYPES.get(kind, 'ELF')} (e_type={kind}), not a core")
    if size < _PHDR.size:
        raise UnreadableError(f"{name}: e_phentsize={size} is too small")
    if count == _PN_XNUM:
        if not shoff or shoff + _SHDR.size > len(data):
            raise UnreadableError(
                f"{name}: e_phnum={count:#x}, but no section header 0 at {shoff:#x}"
            )
        count = _SHDR.unpack(data[shoff : shoff + _SHDR.size])[7]
    return phoff, size, count


def _program_headers(data: Buffer, name: str) -> list[tuple[int, ...]]:
    offset, size, count = _header(data, name)
    if offset + size * count > len(data):
        raise UnreadableError(
            f"{name}: truncated: program headers end at {offset + size * count:#x}, "
            f"the file at {len(data):#x}"
        )
    return [
        _PHDR.unpack(data[at : at + _PHDR.size])
        for at in range(offset, offset + size * count, size)
    ]


def _align4(value: int) -> int:
    return value + 3 & ~3


def _notes(note: bytes, name: str) -> tuple[dict[str, int], dict[str, int]]:
    """System registers, and x0-x30, sp, pc and pstate, from the bytes of a PT_NOTE."""
    registers: dict[str, int] = {}
    general: dict[str, int] = {}
    at = 0
    while at + _NHDR.size <= len(note):
        namesz, descsz, kind = _NHDR.unpack_from(note, at)
        start = at + _NHDR.size + _align4(namesz)
        end = start + descsz
        if end > len(note):
            raise UnreadableError(f"{name}: a note at {at:#x} runs past its segment")
        owner = note[at + _NHDR.size : at + _NHDR.size + namesz].rstrip(b"\0")
        if owner == b"CORE" and kind == _NT_PRSTATUS and not general:
            if descsz >= _GENERAL_OFFSET + 8 * len(_GENERAL):
                values = struct.unpack_from(f"<{len(_GENERAL)}Q", note, start + _GENERAL_OFFSET)
                general = dict(zip(_GENERAL, values, strict=True))
        elif owner == b"AARCH64-SYSREGS":
            registers |= _register_lines(note[start:end], name)
        at = start + _align4(descsz)
    return registers, general


def _register_lines(text: bytes, name: str) -> dict[str, int]:
    registers = {}
    for line in text.rstrip(b"\0").decode("ascii", "replace").splitlines():
        key, _, value = line.partition("=")
        try:
            number = int(value, 0)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 64:
            raise UnreadableError(f"{name}: register note line {line[:60]!r} is not NAME=value")
        registers[arm_name(key)] = number
    return registers


def parse_core(data: Buffer, name: str) -> Core:
    """The memory, registers and PSTATE of core *data*; *name* is for messages.

    Raises `UnreadableError` (truncated, another architecture, not a core, overlapping segments).
    """
    segments = []
    registers: dict[str, int] = {}
    general: dict[str, int] = {}
    for kind, _, offset, _, paddr, filesz, memsz, _ in _program_headers(data, name):
        if kind not in (_PT_LOAD, _PT_NOTE):
            continue
        if offset + filesz > len(data):
            raise UnreadableError(
                f"{name}: truncated: the segment at {paddr:#x} needs file bytes up to "
                f"{offset + filesz:#x}, the file ends at {len(data):#x}"
            )
        if kind == _PT_LOAD:
            if paddr + max(memsz, filesz) > 1 << 64:
                raise UnreadableError(f"{name}: the segment at {paddr:#x} runs past 64 bits")
            segments.append(Segment(paddr, filesz, data, offset))
        else:
            found, state = _notes(bytes(data[offset : offset + min(filesz, _NOTE_LIMIT)]), name)
            registers |= found
            general = general or state
    try:
        pstate = general.pop("pstate", None)
        return Core(SegmentMemory(segments), registers, pstate, general)
    except InvalidError as error:
        raise UnreadableError(f"{name}: {error}") from None
