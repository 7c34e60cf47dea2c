"""Assembly text: against the GNU assembler, and its errors by line and column."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gnu
from instruction_lines import computing, line
from ttbr.errors import InvalidError, TtbrError, UnsupportedError
from ttbr.linux.sequences import SEQUENCES
from ttbr.switch.assembly import assemble
from ttbr.switch.instructions import FORMS
from ttbr.switch.interpreter import run
from ttbr.switch.machinecode import MachineCode
from ttbr.switch.operands import Relative
from ttbr.switch.program import Layout, Store

BASE = 0x8_0000

REFUSED = """
add x0, x1, #0x1001000
add x0, x1, #4097
add x0, w1, x2
add xzr, x1, #1
add x0, sp, x1, lsr #3
add x0, x1, x2, lsl #64
add w0, w1, w2, lsl #32
and x0, x1, #0
and x0, x1, #0x5
and w0, w1, #0x100000001
orr x0, x1, #0xffffffffffffffff
mov x0, #0x12345
mov w0, #0x100000000
movz x0, #0x10000
movk x0, #1, lsl #8
movk w0, #1, lsl #32
bfi x0, x1, #60, #5
bfi w0, w1, #32, #1
ubfx x0, x1, #0, #65
lsl x0, x1, #64
ccmp x0, #32, #0, eq
ccmp x0, #1, #16, eq
cset x0, al
csel x0, x1, x2
csel x0, x1, x2, zz
ldr x0, [x1, #4]!, #3
ldr x0, [x1, #32768]
ldr x0, [x1, #257]
ldr x0, [x1, x2, lsl #2]
ldr w0, [x1, x2, lsl #3]
ldr x0, [w1]
ldr x0, [xzr]
ldrb x0, [x1]
ldp x0, x1, [x2, #4]
ldp x0, x1, [x2, #512]
ldp x0, w1, [x2]
ldur x0, [x1, #256]
ldar x0, [x1, #8]
stlr x0, [x1], #8
str x0, [x1, x2]!
tbz w0, #32, .
tbz x0, #64, .
b . + 2
b . + 0x8000000
cbz x0, . + 0x100000
adr x0, . + 0x100000
dsb foo
dmb ishnxs
tlbi vmalle1, x0
tlbi vae1
tlbi vae4, x0
dc ivac
ic ivau
ic iallu, x0
at s1e4r, x0
msr nosuchreg_el1, x0
msr ttbr0_el1, #1
msr daifset, #16
mrs w0, ttbr0_el1
mrs x0
br w0
ret x0, x1
isb ish
eret x0
hvc #65536
add x0, x1
add x0, x1, x2, x3
add x31, x0, x1
clz x0, w0
sxtw w0, w1
bti k
""".strip().split("\n")


@pytest.mark.parametrize("text", REFUSED)
def test_refused_as_gnu_refuses(text: str) -> None:
    with pytest.raises(InvalidError, match=r"^program:1:\d+: "):
        assemble(text, BASE)


def test_gnu_refuses_them_too() -> None:
    kept = {REFUSED[n - 1] for n in gnu.accepted("\n".join(REFUSED)) if n <= len(REFUSED)}
    # Checked by the linker only.
    assert kept <= {"b . + 0x8000000", "cbz x0, . + 0x100000", "adr x0, . + 0x100000"}


def test_what_is_accepted_gnu_accepts() -> None:
    r = Random(3)
    lines = [line(r, *form) for form in computing() for _ in range(20)]
    kept = []
    for text in lines:
        try:
            assemble(text, BASE)
        except InvalidError:
            continue
        kept.append(text)
    accepted = gnu.accepted("\n".join(kept))
    assert len(kept) > 2000
    assert [text for n, text in enumerate(kept, 1) if n not in accepted] == []


def test_what_gnu_accepts_is_accepted() -> None:
    r = Random(4)
    lines = [line(r, *form) for form in computing() for _ in range(20)]
    accepted = gnu.accepted("\n".join(lines))
    for n, text in enumerate(lines, 1):
        if n in accepted:
            assemble(text, BASE)


PROGRAM = """
# a comment of the preprocessor
        .text
        .equ    SHIFT, 12
TCR = (16 << 0) | (1 << 8) | (3 << 12)     // operators as GNU as has them
start:  mov     x0, #TCR & 0xffff          /* one
        comment over two lines */
        ldr     x1, =0x0123456789abcdef ; ldr w2, =0x12345678
        ldr     x3, =0xffff0000            // made by one move
        ldr     x4, =start + 8
        ldr     x5, =0x0123456789abcdef    // the same pool entry
        adrp    x6, table
        add     x6, x6, :lo12:table
        movz    x7, #:abs_g1:table
        movk    x7, #:abs_g0_nc:table
1:      subs    x0, x0, #1 << SHIFT
        b.hi    1b
        bl      2f
        b       3f
        .align  4
2:      ldr     x8, [x6, #8]
        ldr     x9, .Lvalue
        ret
        .ltorg
.Lvalue: .quad  table - start, 3 + 4 * 2 << 1
        .word   -1
        .balign 8
table:  .quad   start, 'x' - 'x'
3:      adr     x10, .
        ldr     w11, =0x12345678
        nop
""".replace("'x' - 'x'", "0")


def test_layout_against_gnu() -> None:
    """Labels, pools, alignment and expressions: the linked image gives the same registers."""
    text = assemble(PROGRAM, BASE)
    code = MachineCode(gnu.image(PROGRAM, BASE), BASE, BASE)
    end = text.end
    ours, theirs = (run(c, {}, 1, stop=[end, text.symbols["table"] + 28]) for c in (text, code))
    assert ours.registers == theirs.registers
    assert [s.pc for s in ours.steps] == [s.pc for s in theirs.steps]
    assert [s.events for s in ours.steps] == [s.events for s in theirs.steps]
    assert ours.registers["x5"] == 0x0123456789ABCDEF
    assert ours.registers["x9"] == text.symbols["table"] - BASE


SYSTEM = """
msr ttbr0_el2, x0
msr TTBR1_EL1, x1
msr S3_4_C2_C0_2, x2
mrs x3, s3_0_c2_c0_0
mrs x4, id_aa64mmfr0_el1
msr s3_0_c15_c2_7, x5
msr daifset, #15
msr daifclr, #8
msr spsel, #1
msr pan, #0
isb
isb sy
dsb sy
dsb ish
dsb ishst
dsb nshld
dsb oshst
dsb #11
dmb ishld
dmb st
tlbi alle2
tlbi alle2is
tlbi vmalle1os
tlbi vmalls12e1is
tlbi aside1, x5
tlbi vae2, x6
tlbi vale1is, x6
tlbi vaale1os, x6
tlbi rvae1is, x7
tlbi ripas2le1, x7
tlbi ipas2e1is, x7
dc civac, x8
dc ivac, x8
dc cvap, x8
dc zva, x9
ic iallu
ic ialluis
ic ivau, x8
at s1e2r, x8
at s12e1w, x8
sys #0, c8, c7, #0
sys #4, c8, c3, #1, x6
sys #3, c7, c14, #1, x8
hint #34
bti c
paciasp
wfi
csdb
clrex
""".strip()


def test_system_instructions_against_gnu() -> None:
    """Text and machine code give the same instructions and the same events."""
    registers = {f"x{i}": i << 20 | i << 12 for i in range(31)} | {"DCZID_EL0": 4}
    registers |= {"TTBR0_EL1": 1, "ID_AA64MMFR0_EL1": 2, "HCR_EL2": 0}
    text = assemble(SYSTEM, BASE)
    code = MachineCode(gnu.image(SYSTEM, BASE), BASE, BASE)
    ours, theirs = (run(c, registers, 2) for c in (text, code))
    assert len(ours.steps) == SYSTEM.count("\n") + 1
    for a, b in zip(ours.steps, theirs.steps, strict=True):
        assert a.events == b.events, a.text
    assert ours.registers == theirs.registers


def test_every_mnemonic_is_known_to_gnu() -> None:
    known = {m for m in FORMS if m not in ("b.al", "b.nv", "b.hs", "b.lo")}
    source = "\n".join(sorted(known))
    assert gnu.unknown_mnemonics(source) == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nop\n  fmov d0, x0", "t.S:2:3: fmov: this instruction is not modelled"),
        ("ldr x0, [x1", "t.S:1:12: expected ']', found the end of the statement"),
        ("mov x0, #(1 + ", "t.S:1:15: expected an expression, found nothing"),
        ("b nowhere", "t.S:1:3: b: nowhere is not defined"),
        ("a: nop\na: nop", "t.S:2:1: a is already defined"),
        ("mov x0, #1 / 0", "t.S:1:12: division by zero"),
        ("mov x0, #1 << 99", "t.S:1:12: shift by 99"),
        ("mov x0, ?", "t.S:1:9: unexpected '?'"),
        ("nop; nop ; add x0, x1, #4097", "t.S:1:24: add: immediate 0x1001 is neither"),
        (".section .idmap.text", "t.S:1:1: .section: this directive is not supported"),
        (".macro foo", "t.S:1:1: .macro: this directive is not supported"),
        (".org 4", "t.S:1:1: .org 0x4 goes back from 0x80000"),
        (".skip 1 << 40", "t.S:1:1: the program is larger than 16 MB"),
        (".byte 256", "t.S:1:1: 0x100 does not fit in 1 bytes"),
        (".byte 1\nnop", "t.S:2:1: instruction at 0x80001, not a multiple of 4"),
        ("tlbi vae1", "t.S:1:6: tlbi: VAE1 takes an address or ASID register"),
        ("msr ttbr2_el9, x0", "t.S:1:5: msr: unknown system register TTBR2_EL9"),
        ("mov x0, #" + "(" * 99, "t.S:1:60: expression nested too deeply"),
        ("=", "t.S:1:1: expected an instruction"),
    ],
)
def test_errors_have_line_and_column(text: str, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        assemble(text, BASE, "t.S")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_unknown_instructions_are_unsupported() -> None:
    with pytest.raises(UnsupportedError):
        assemble("casal x0, x1, [x2]", BASE)


def test_places_and_symbols() -> None:
    code = assemble("str x0, [pte + 8]\nldr x1, [pte+8]\n", BASE, symbols={"pte": 0x4000})
    trace = run(code, {"x0": 7}, 1)
    assert trace.steps[0].events[0] == Store(0x4008, 8, 7)
    assert trace.registers["x1"] == 7


def test_one_routine_at_two_addresses() -> None:
    """PC-relative operands follow the address that the code runs at."""
    text = "adr x0, here\nldr x1, =run_time\nbr x1\nnop\nhere: adr x2, here\n"
    code = assemble(text, BASE, symbols={"run_time": 0xFFFF_0000_0008_0010})
    trace = run(Layout(BASE, ((code, 0), (code, 0xFFFF_0000_0000_0000))), {}, 2)
    assert trace.registers["x0"] == BASE + 16
    assert trace.registers["x2"] == 0xFFFF_0000_0008_0010
    assert isinstance(code.instructions[BASE].operands[1], Relative)


def test_running_into_data() -> None:
    with pytest.raises(InvalidError, match="0x80004: the program runs into data"):
        run(assemble("nop\n.quad 0\nnop", BASE), {}, 1)


def test_the_sequences_of_linux() -> None:
    """Every routine that ttbr.linux gives as text assembles, here and with GNU as, and runs."""
    for name, rows in SEQUENCES.items():
        for row in rows:
            routine = row.rule
            code = assemble(routine.text, BASE, name)
            assert len(gnu.image(routine.text, BASE)) == code.end - BASE
            held = {x: 0x4000_0000 + 0x1000 * n for n, x in enumerate(routine.inputs)}
            known = {"SCTLR_EL2": 1, "SCTLR_EL1": 1, "TCR_EL1": 0}
            trace = run(code, known | held, routine.el)
            assert len(trace.steps) > 2
            assert trace.end.how in (
                "leaves the code",
                "returns to its caller",
                "returns from the exception",
            )


FRAGMENTS = st.sampled_from(
    [
        *FORMS,
        *[
            "x0",
            "w1",
            "sp",
            "xzr",
            ",",
            "#",
            "[",
            "]",
            "!",
            "=",
            "(",
            ")",
            "<<",
            "+",
            "-",
            "~",
            "1",
            "0x10",
            "1f",
            "1b",
            "1:",
            "a:",
            "a",
            "lsl",
            "uxtw",
            "eq",
            "ish",
            "vae1",
        ],
        *[
            "ttbr0_el1",
            ".quad",
            ".align",
            ".org",
            ".set",
            ".ltorg",
            ";",
            "//",
            "/*",
            "*/",
            ":lo12:",
            '"',
            "{",
        ],
        "\n",
    ]
)


@given(st.lists(FRAGMENTS | st.text(max_size=4), max_size=12))
@settings(max_examples=1500, deadline=None)
def test_any_text_gives_a_program_or_one_clear_error(parts: list[str]) -> None:
    message = ""
    try:
        code = assemble(" ".join(parts), BASE)
        run(code, {"x0": 4}, 2, limit=50)
    except TtbrError as error:
        message = str(error)
    assert "\n" not in message
