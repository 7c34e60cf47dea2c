"""Each bad input: one line on standard error that names what is wrong, status 2, no traceback."""

import gzip
import json
import random
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import process, ttbr
from trees import (
    AF,
    EL0,
    PAGE,
    TG0,
    Tree,
    el1_registers,
    elf_core,
    register_note,
    stage2_registers,
    tcr_el1,
    tree_core,
)
from ttbr.memory import image

OUT = 0x4000_0000


def sample() -> tuple[Tree, dict[str, int]]:
    """A 39-bit map of one page at VA 0x1000; the upper half is off."""
    tree = Tree()
    root = tree.chain((0, 0, 1), OUT | AF | EL0 | PAGE)
    return tree, el1_registers(root, T0SZ=25, EPD1=1)


GOOD = tree_core(*sample())
ROOT = sample()[1]["TTBR0_EL1"]


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes, str], Path]:
    def write(data: bytes, name: str = "image") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


Save = Callable[..., Path]


def commands(path: Path, *more: object) -> list[list[object]]:
    """The commands that read an image."""
    return [["walk", path, "0x1000", *more], ["dump", path, *more], ["info", path, *more]]


def test_the_sample_is_good(save: Save) -> None:
    for words in commands(save(GOOD)):
        assert ttbr(*words).status == 0, words


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file is empty"),
        (b"this is a text file, not a dump\n" * 40, "not an ELF core"),
        (elf_core([(0, bytes(64))], machine=62), "a core of x86-64"),
        (elf_core([(0, bytes(64))], machine=243), "a core of RISC-V"),
        (elf_core([(0, bytes(64))], kind=2), "an executable"),
        (elf_core([(0, bytes(64))], ident=b"\x7fELF\x01\x01\x01"), "EI_CLASS=1"),
        (elf_core([(0, bytes(64))], ident=b"\x7fELF\x02\x02\x01"), "EI_DATA=2"),
        (
            elf_core([(0x1000, bytes(4096)), (0x1800, bytes(4096))]),
            "segments overlap: 0x1000-0x2000 and 0x1800-0x2800",
        ),
        (gzip.compress(GOOD, mtime=0)[:-30], "damaged gzip file"),
        (gzip.compress(GOOD, mtime=0)[:60] + b"\0" * 60, "damaged gzip file"),
        (b"KDUMP   " + bytes(4096), "kdump"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_image_that_is_none(save: Save, data: bytes, text: str) -> None:
    path = save(data)
    for words in commands(path):
        line = ttbr(*words).refusal
        assert str(path) in line
        assert text in line


def test_truncated_core_at_every_cut(save: Save) -> None:
    """The last page is a table of the walk: no cut may pass as a whole image."""
    for size in [*range(900), *range(900, len(GOOD), 397), len(GOOD) - 1]:
        line = ttbr("walk", save(GOOD[:size]), "0x1000").refusal
        assert "image: " in line


def test_truncated_gzip_at_every_cut(save: Save) -> None:
    packed = gzip.compress(GOOD, mtime=0)
    for size in range(3, len(packed), 2):
        assert "image: " in ttbr("info", save(packed[:size])).refusal


@pytest.mark.parametrize("command", ["walk", "dump", "info"])
def test_no_such_file(tmp_path: Path, command: str) -> None:
    more = ["0"] if command == "walk" else []
    assert "none: No such file" in ttbr(command, tmp_path / "none", *more).refusal
    assert "directory" in ttbr(command, tmp_path, *more).refusal


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--tcr-el1", hex(tcr_el1(T0SZ=10))], "TCR_EL1.T0SZ=10 is out of range: 16 to 48"),
        (["--tcr-el1", hex(tcr_el1(T0SZ=49))], "TCR_EL1.T0SZ=49 is out of range"),
        (["--tcr-el1", hex(tcr_el1(TG0=3))], "TCR_EL1.TG0=0b11 is reserved"),
        (["--tcr-el1", hex(tcr_el1(IPS=7))], "TCR_EL1.IPS=0b111 is reserved"),
        (["--tcr-el1", "0x10000000000000000"], "--tcr-el1 '0x10000000000000000' does not fit"),
        (["--tcr-el1", "frog"], "--tcr-el1 'frog' is not a number"),
        (["--tcr2-el1", "0x20"], "TCR2_EL1.D128=1"),
        (["--tcr2-el1", "0x2"], "TCR2_EL1.PIE=1"),
        (["--sctlr-el1", "0x2000001"], "SCTLR_EL1.EE=1"),
        (["--ttbr0-el1", "0x70000000"], "root 0x70000000 of TTBR0_EL1 is not in the image"),
        (["--regime", "el2"], "register TCR_EL2 is missing"),
        (["--regime", "el3"], "register TCR_EL3 is missing"),
        (["--regime", "stage2"], "register VTCR_EL2 is missing"),
        (["--base", "0x1000"], "drop --base"),
        (["--base", "0x1000g"], "--base '0x1000g' is not a number"),
        (["--regs", "/nonexistent.json"], "/nonexistent.json: No such file"),
    ],
)
@pytest.mark.parametrize("command", ["walk", "dump"])
def test_registers_that_cannot_be(save: Save, command: str, options: list[str], text: str) -> None:
    more = ["0x1000"] if command == "walk" else []
    if command == "dump" and "--regime" not in options:
        more = ["--half", "lower"]
    assert text in ttbr(command, save(GOOD), *more, *options).refusal


def test_root_beyond_the_declared_size(save: Save) -> None:
    tree, registers = sample()
    registers |= {"TTBR0_EL1": 1 << 36, "TCR_EL1": tcr_el1(T0SZ=25, EPD1=1, IPS=0)}
    path = save(tree_core(tree, registers))
    for words in commands(path)[:2]:
        line = ttbr(*words).refusal
        assert "0x1000000000" in line
        assert "TTBR0_EL1" in line
        assert "32" in line


def test_core_without_registers(save: Save) -> None:
    tree, _ = sample()
    path = save(elf_core([(a, bytes(d)) for a, d in tree.tables.items()]))
    for words in commands(path)[:2]:
        line = ttbr(*words).refusal
        assert f"{path}: no registers" in line
        assert "--regs" in line


@pytest.mark.parametrize("missing", ["TTBR0_EL1", "TCR_EL1"])
def test_register_missing_from_the_file(save: Save, missing: str) -> None:
    tree, registers = sample()
    del registers[missing]
    image_path = save(elf_core([(a, bytes(d)) for a, d in tree.tables.items()]))
    file = save(json.dumps({k: hex(v) for k, v in registers.items()}).encode(), "regs.json")
    for words in commands(image_path, "--regs", file, "--regime", "el1")[:2]:
        assert f"register {missing} is missing" in ttbr(*words).refusal


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b'{"TTBR0_EL1": "frog"}', "TTBR0_EL1='frog' is not a number"),
        (b'{"TTBR0_EL1": -1}', "does not fit in 64 bits"),
        (b'{"TTBR0_EL1": 1.5}', "is not a number"),
        (b'{"TTBR0_EL1": ', "neither JSON nor TOML"),
        (b"TTBR0_EL1 is 5", "neither JSON nor TOML"),
        (b"\x80\x81", "not a text file"),
        (b"", "the file is empty"),
    ],
)
def test_register_file_with_wrong_values(save: Save, text: bytes, wanted: str) -> None:
    file = save(text, "regs")
    for words in commands(save(GOOD), "--regs", file):
        line = ttbr(*words).refusal
        assert str(file) in line
        assert wanted in line


@pytest.mark.parametrize(
    "va",
    ["0x1000g", "ffff000012345678", "", "0x", "1e6", "0x1 0", "12 34", "0b12", "-1", "-0x1000",
     "0x1_0000_0000_0000_0000", "x1000", "1000h", "$1000", "0x1000,0x2000", "0o9"],
)  # fmt: skip
def test_address_with_a_typo(save: Save, va: str) -> None:
    line = ttbr("walk", save(GOOD), "--", va).refusal
    assert "address" in line
    assert repr(va) in line


def test_lpa2_dump_read_without_ds(save: Save) -> None:
    tree = Tree()
    root = tree.chain((0, 0, 0, 0, 1), OUT | AF | PAGE)
    registers = el1_registers(root, T0SZ=12, DS=1, EPD1=1)
    path = save(tree_core(tree, registers))
    assert ttbr("walk", path, "0x1000").status == 0
    for words in commands(path, "--tcr-el1", hex(tcr_el1(T0SZ=12, EPD1=1)))[:2]:
        line = ttbr(*words).refusal
        assert "TCR_EL1.T0SZ=12 is out of range" in line
        assert "TCR_EL1.DS=0" in line


def test_inconsistent_stage2_start_level_is_named(save: Save) -> None:
    tree, registers = sample()
    registers |= stage2_registers(ROOT, SL0=0, T0SZ=16)
    path = save(tree_core(tree, registers))
    for words in commands(path, "--regime", "stage2")[:2]:
        result = ttbr(*words)
        assert result.status in (1, 2)
        assert "start level 2 does not fit T0SZ=16" in result.out + result.err


def test_raw_image_without_a_base(save: Save) -> None:
    path = save(bytes(8192), "ram.raw")
    for words in commands(path, "--ttbr0-el1", "0", "--tcr-el1", "0x19"):
        assert f"{path}: not an ELF core; a raw image needs --base" in ttbr(*words).refusal


def test_gzip_bomb(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image._unpack, "__defaults__", (1 << 20,))
    path = save(gzip.compress(bytes(8 << 20), mtime=0), "bomb.gz")
    for words in commands(path, "--base", "0"):
        assert f"{path}: unpacks to more than 1 MiB" in ttbr(*words).refusal


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A gzip bomb, and a register file without an end, with 1.5 GiB of address space."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(1300):
            file.write(bytes(1 << 20))
    good = tmp_path / "good"
    good.write_bytes(GOOD)
    for words in (["info", path, "--base", "0"], ["info", good, "--regs", "/dev/zero"]):
        result = process(*words, preexec_fn=limit_memory)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        assert "Traceback" not in result.stderr


def test_as_a_process_there_is_no_traceback(save: Save) -> None:
    for data in (b"", b"text\n", GOOD[:3000]):
        result = process("walk", save(data), "0x1000")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith("ttbr walk: ")
        assert result.stderr.count("\n") == 1


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), max_size=10), st.booleans())
def test_damaged_cores(save: Save, damage: list[tuple[int, int]], listing: bool) -> None:
    """Headers and notes with wrong bytes: an answer or one line."""
    data = bytearray(GOOD)
    for at, byte in damage:
        data[at] = byte
    path = save(bytes(data))
    result = ttbr("dump", path) if listing else ttbr("walk", path, "0x1000")
    assert result.status in (0, 1, 2)
    if result.status == 2:
        assert result.err.startswith("ttbr ")
    assert result.err.count("\n") <= 2


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1 << 32), st.sampled_from(list(TG0)), st.integers(12, 48))
def test_noise_as_tables(save: Save, seed: int, granule: str, t0sz: int) -> None:
    data = random.Random(seed).randbytes(1 << 14)
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    data = struct.pack(f"<{len(words)}Q", *(w & 0xFFFF_0000_0000_3FFF for w in words))
    path = save(data, "noise")
    registers = ["--tcr-el1", hex(tcr_el1(T0SZ=t0sz, TG0=TG0[granule], EPD1=1)), "--ttbr0-el1", "0"]
    for command in (
        ["walk", path, hex(seed)],
        ["dump", path, "--summary"],
        ["dump", path, "--json"],
    ):
        result = ttbr(*command, "--base", "0", *registers)
        assert result.status in (0, 1, 2)
        assert "Traceback" not in result.err


def test_register_notes_without_memory(save: Save) -> None:
    path = save(elf_core([], register_note(el1_registers(0x1000, EPD1=1))))
    assert "root 0x1000 of TTBR0_EL1 is not in the image" in ttbr("walk", path, "0").refusal
    assert ttbr("info", path).status == 0
