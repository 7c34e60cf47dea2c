"""The hand-made encodings against GNU as and objdump."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emulate_tables import IN_CI
from ttbr.emulate import encode as e
from ttbr.errors import InvalidError

GNU_AS = "aarch64-linux-gnu-as"
GNU_OBJDUMP = "aarch64-linux-gnu-objdump"

needs_gnu = pytest.mark.skipif(
    not shutil.which(GNU_AS) and not IN_CI,
    reason="no GNU as: apt-get install binutils-aarch64-linux-gnu",
)


def assemble(lines: list[str], folder: Path) -> list[int]:
    """The words GNU as makes of *lines*."""
    source, output = folder / "x.s", folder / "x.o"
    source.write_text(".arch armv8.7-a\n" + "\n".join(lines) + "\n")
    subprocess.run([GNU_AS, "-o", output, source], check=True, capture_output=True)
    listing = subprocess.run([GNU_OBJDUMP, "-d", output], check=True, capture_output=True)
    return [int(w, 16) for w in re.findall(r"^ +\w+:\t(\w{8}) ", listing.stdout.decode(), re.M)]


def register_lines() -> list[tuple[str, int]]:
    """(assembly text, our word) of an MRS, and an MSR where there is one, of each register."""
    lines = []
    for number, name in enumerate(e.SYSTEM_REGISTERS):
        rt = number % 31
        lines.append((f"mrs x{rt}, {name}", e.mrs(rt, name)))
        if not re.match(r"ID_|MIDR|MPIDR|CTR_|CurrentEL", name):
            lines.append((f"msr {name}, x{rt}", e.msr(name, rt)))
    return lines


def operation_lines() -> list[tuple[str, int]]:
    lines = []
    for name in e.SYSTEM_OPERATIONS:
        bare = name.split()[1].startswith(("VMALL", "ALLE", "IALLU"))
        lines.append((name if bare else f"{name}, x7", e.system(name, 31 if bare else 7)))
    return lines


def other_lines() -> list[tuple[str, int]]:
    lines = [
        ("isb", e.ISB),
        ("nop", e.NOP),
        ("eret", e.ERET),
        ("br x17", e.br(17)),
        ("svc #0x12", e.svc(0x12)),
        ("hvc #0xffff", e.hvc(0xFFFF)),
        ("smc #1", e.smc(1)),
        ("hlt #0xf000", e.hlt(0xF000)),
        ("msr pan, #1", e.msr_pan(1)),
        ("msr pan, #0", e.msr_pan(0)),
        ("mov x3, x29", e.mov(3, 29)),
        ("lsr x3, x4, #26", e.lsr(3, 4, 26)),
        ("add x3, x4, #0xfff", e.add_immediate(3, 4, 0xFFF)),
        ("sub x3, x4, #8", e.sub_immediate(3, 4, 8)),
        ("subs x3, x4, #8", e.sub_immediate(3, 4, 8, flags=True)),
        ("ldr x1, [x2], #8", e.ldr_post(1, 2, 8)),
        ("str x1, [x2], #-16", e.str_post(1, 2, -16)),
    ]
    lines += [
        (f"{m} {d}", f(d)) for d in e.BARRIER_DOMAINS for m, f in (("dsb", e.dsb), ("dmb", e.dmb))
    ]
    for size, load, store, reg in (
        (1, "ldrb", "strb", "w"),
        (2, "ldrh", "strh", "w"),
        (4, "ldr", "str", "w"),
        (8, "ldr", "str", "x"),
    ):
        lines.append((f"{load} {reg}5, [x6, #{size * 9}]", e.ldr(5, 6, size * 9, size)))
        lines.append((f"{store} {reg}5, [x6]", e.str_(5, 6, 0, size)))
    for shift in (0, 16, 32, 48):
        lines.append((f"movz x9, #0xabcd, lsl #{shift}", e.movz(9, 0xABCD, shift)))
        lines.append((f"movk x9, #0xabcd, lsl #{shift}", e.movk(9, 0xABCD, shift)))
    return lines


@needs_gnu
@pytest.mark.parametrize("lines", [register_lines, operation_lines, other_lines])
def test_words_are_those_of_gnu_as(
    lines: Callable[[], list[tuple[str, int]]], tmp_path: Path
) -> None:
    pairs = lines()
    words = assemble([text for text, _ in pairs], tmp_path)
    assert len(words) == len(pairs)
    wrong = [
        (text, hex(ours), hex(gnu))
        for (text, ours), gnu in zip(pairs, words, strict=True)
        if ours != gnu
    ]
    assert wrong == []


@needs_gnu
def test_branches_are_those_of_gnu_as(tmp_path: Path) -> None:
    code = e.Code(0x1000)
    code.label("start")
    code.b("end")
    code.cbz(3, "start")
    code.cbnz(4, "end")
    code.bl("start")
    for condition in e.CONDITIONS:
        code.b_cond(condition, "start")
    code.align(32)
    assert code.label("end") == code.here
    code.emit(e.NOP)
    text = ["start: b end", "cbz x3, start", "cbnz x4, end", "bl start"]
    text += [f"b.{condition} start" for condition in e.CONDITIONS]
    text += ["nop"] * (8 - len(text) % 8 if len(text) % 8 else 0) + ["end: nop"]
    gnu = assemble(text, tmp_path)
    ours = bytes(code)
    assert [int.from_bytes(ours[i : i + 4], "little") for i in range(0, len(ours), 4)] == gnu


@needs_gnu
@pytest.mark.parametrize(
    "value", [0, 1, 0xFFFF_0000_0000_0000, 0x1234_0000_5678_9ABC, (1 << 64) - 1]
)
def test_mov_immediate_loads_the_value(value: int) -> None:
    x = 0
    for word in e.mov_immediate(11, value):
        assert word & 31 == 11
        shift = (word >> 21 & 3) * 16
        immediate = word >> 5 & 0xFFFF
        x = (
            immediate << shift
            if not word & 0x2000_0000
            else x & ~(0xFFFF << shift) | immediate << shift
        )
    assert x == value


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: e.msr("TTBR9_EL1", 0),
        lambda: e.system("AT S1E9R"),
        lambda: e.dsb("all"),
        lambda: e.movz(0, 0x10000),
        lambda: e.ldr(0, 1, 4),
        lambda: e.add_immediate(0, 0, 4096),
        lambda: e.Code().address("nowhere"),
    ],
)
def test_what_has_no_encoding_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InvalidError):
        wrong()


def test_code_refuses_bad_labels() -> None:
    code = e.Code()
    code.label("a")
    with pytest.raises(InvalidError, match="twice"):
        code.label("a")
    code.b("b")
    with pytest.raises(InvalidError, match="'b'"):
        bytes(code)
