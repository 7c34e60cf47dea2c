"""ELF cores: what is read, and each way in which one can be wrong."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trees import elf_core, note, register_note
from ttbr.errors import TtbrError, UnreadableError
from ttbr.memory.elfcore import parse_core

PAGES = [(0x4000_0000, b"A" * 4096), (0x8_8000_0000, b"B" * 64)]
REGISTERS = {"TTBR0_EL1": 0x4000_0000, "TCR_EL1": 0x5_B510_3510}


def status(pstate: int) -> bytes:
    """NT_PRSTATUS of arm64 Linux with this PSTATE."""
    return note(b"CORE", 1, b"\0" * (112 + 33 * 8) + struct.pack("<Q", pstate) + b"\0" * 8)


CORE = elf_core(PAGES, status(0x6000_03C9) + register_note(REGISTERS))


def test_memory_registers_and_pstate() -> None:
    core = parse_core(CORE, "x")
    assert core.memory.read(0x4000_0FFF, 1) == b"A"
    assert core.memory.read(0x8_8000_0000, 64) == b"B" * 64
    assert core.registers == REGISTERS
    assert core.pstate == 0x6000_03C9


def test_without_notes() -> None:
    core = parse_core(elf_core(PAGES), "x")
    assert (core.registers, core.pstate) == ({}, None)


def test_first_cpu_tells_the_exception_level() -> None:
    core = parse_core(elf_core(PAGES, status(0x3C9) + status(0x3C5)), "x")
    assert core.pstate == 0x3C9


def test_unknown_notes_are_passed_over() -> None:
    notes = note(b"QEMU", 0, b"\xff" * 33) + note(b"", 7, b"") + register_note(REGISTERS)
    assert parse_core(elf_core(PAGES, notes), "x").registers == REGISTERS


def test_register_names_of_debuggers() -> None:
    """QEMU's debug stub calls EL1's SCTLR and VBAR by the bare name, as a register file may."""
    core = parse_core(elf_core(PAGES, register_note({"SCTLR": 0, "ttbr0_el1": 5})), "x")
    assert core.registers == {"SCTLR_EL1": 0, "TTBR0_EL1": 5}


def test_memsz_beyond_filesz_is_not_there() -> None:
    """Pages that a dump left out are missing, not zero."""
    data = bytearray(elf_core([(0x1000, b"x" * 16)]))
    struct.pack_into("<Q", data, 64 + 40, 4096)  # p_memsz
    core = parse_core(bytes(data), "x")
    assert core.memory.read(0x100F, 1) == b"x"
    with pytest.raises(TtbrError):
        core.memory.read(0x1010, 1)


def test_every_cut_is_told() -> None:
    """A truncated core never yields memory."""
    for size in range(len(CORE)):
        with pytest.raises(UnreadableError, match=r"^x\.elf: .*(truncated|ELF|note)"):
            parse_core(CORE[:size], "x.elf")


def header(at: int, value: int, form: str = "<H") -> bytes:
    data = bytearray(CORE)
    struct.pack_into(form, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (header(18, 62), "a core of x86-64 (e_machine=62), not of AArch64"),
        (header(18, 40), "a core of 32-bit Arm (e_machine=40)"),
        (header(18, 243), "a core of RISC-V"),
        (header(18, 999), "a core of another architecture (e_machine=999)"),
        (header(16, 2), "an executable (e_type=2), not a core"),
        (header(16, 3), "a shared object (e_type=3)"),
        (header(16, 77), "ELF (e_type=77)"),
        (header(4, 1, "B"), "not a 64-bit ELF file (EI_CLASS=1)"),
        (header(5, 2, "B"), "not little-endian (EI_DATA=2)"),
        (header(54, 55), "e_phentsize=55"),
        (header(56, 500), "truncated: program headers end at"),
        (header(32, 1 << 63, "<Q"), "truncated: program headers end at"),
        (header(64 + 56 + 8, 1 << 62, "<Q"), "truncated: the segment at 0x40000000"),
        (header(64 + 56 + 24, (1 << 64) - 16, "<Q"), "runs past 64 bits"),
        (header(64 + 56 + 40, (1 << 64) - 16, "<Q"), "runs past 64 bits"),
        (elf_core(PAGES, b"\xff" * 12), "a note at 0x0 runs past its segment"),
        (elf_core([(0x1000, bytes(16)), (0x100F, b"x")]), "segments overlap: 0x1000-0x1010"),
        (
            elf_core(PAGES, note(b"AARCH64-SYSREGS", 1, b"TTBR0_EL1=frog\n")),
            "register note line 'TTBR0_EL1=frog' is not NAME=value",
        ),
        (
            elf_core(PAGES, note(b"AARCH64-SYSREGS", 1, b"TTBR0_EL1=0x10000000000000000\n")),
            "register note line 'TTBR0_EL1=0x10000000000000000'",
        ),
        (elf_core(PAGES, note(b"AARCH64-SYSREGS", 1, b"TTBR0_EL1\n")), "is not NAME=value"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, text: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        parse_core(data, "x.elf")
    assert str(caught.value).startswith("x.elf: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_headers_than_e_phnum_counts() -> None:
    """PN_XNUM: the count stands in sh_info of section header 0, as in cores of 65,535+ segments."""
    count = 0xFFFF + 2
    head = bytearray(elf_core([]))
    struct.pack_into("<Q", head, 40, 64)  # e_shoff
    struct.pack_into("<H", head, 56, 0xFFFF)  # e_phnum
    struct.pack_into("<HH", head, 58, 64, 1)  # e_shentsize, e_shnum
    section = bytearray(64)
    struct.pack_into("<I", section, 44, count)  # sh_info
    struct.pack_into("<Q", head, 32, 128)  # e_phoff
    segments = b"".join(
        struct.pack("<IIQQQQQQ", 1, 0, 0, 0, 0x1000 * n, 8, 8, 1) for n in range(count)
    )
    try:
        core = parse_core(bytes(head + section) + segments, "x.elf")
    except UnreadableError as error:
        assert str(error).startswith("x.elf: ")  # noqa: PT017 (either is right: all, or a refusal)
    else:
        assert len(core.memory.segments) == count


def test_a_core_that_binutils_reads(tmp_path: Path) -> None:
    """The cores of these tests are cores to other tools as well."""
    path = tmp_path / "core"
    path.write_bytes(CORE)
    try:
        run = subprocess.run(
            ["readelf", "-lW", str(path)], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("no readelf")
    assert "CORE (Core file)" in run.stdout
    assert run.stdout.count("LOAD ") == 2
    assert "0x0000000880000000" in run.stdout


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    for start in (b"", b"\x7fELF", CORE[:64], CORE[:120]):
        try:
            parse_core(start + data, "x")
        except UnreadableError as error:
            assert str(error).startswith("x: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=12))
def test_damaged_cores(damage: list[tuple[int, int]]) -> None:
    data = bytearray(CORE)
    for at, byte in damage:
        data[at] = byte
    try:
        core = parse_core(bytes(data), "x")
    except UnreadableError as error:
        assert str(error).startswith("x: ")  # noqa: PT017
    else:
        assert sum(segment.size for segment in core.memory.segments) <= 8 * len(data)
