"""The interpreter against Unicorn, and its control flow, exceptions and refusals."""

from collections.abc import Mapping
from random import Random

import pytest

from gnu import image
from instruction_lines import SCRATCH, computing, line
from ttbr.errors import InvalidError, MemoryFault, TtbrError, UnsupportedError
from ttbr.switch.assembly import assemble
from ttbr.switch.interpreter import run
from ttbr.switch.machinecode import MachineCode
from ttbr.switch.program import (
    Abort,
    Branch,
    Code,
    Dsb,
    Eret,
    ExceptionEntry,
    Load,
    Msr,
    ProgramError,
    Store,
    Tlbi,
    Trace,
)

unicorn = pytest.importorskip("unicorn")
BASE = 0x10_0000
SIZE = 0x4000
PER_FORM = 12


class Scratch:
    """Known bytes at SCRATCH."""

    content = bytes(Random(1).randrange(256) for _ in range(SIZE))

    def read(self, address: int, size: int) -> bytes:
        if not SCRATCH <= address <= SCRATCH + SIZE - size:
            raise MemoryFault(address, size)
        return self.content[address - SCRATCH : address - SCRATCH + size]


def emulated(code: bytes, registers: Mapping[str, int], sp: int) -> tuple[list[int], int, bytes]:
    """x0-x30 and sp, NZCV, and the scratch memory after one instruction in Unicorn."""
    from unicorn import arm64_const as c

    uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    uc.ctl_set_cpu_model(c.UC_CPU_ARM64_MAX)
    uc.mem_map(BASE, 0x1000)
    uc.mem_map(SCRATCH, SIZE)
    uc.mem_write(SCRATCH, Scratch.content)
    uc.mem_write(BASE, code)
    numbers = [c.UC_ARM64_REG_X0 + i for i in range(29)] + [c.UC_ARM64_REG_X29, c.UC_ARM64_REG_X30]
    for i, number in enumerate(numbers):
        uc.reg_write(number, registers[f"x{i}"])
    uc.reg_write(c.UC_ARM64_REG_SP, sp)
    uc.reg_write(c.UC_ARM64_REG_NZCV, registers["NZCV"] << 28)
    uc.emu_start(BASE, BASE + len(code), count=1)
    values = [uc.reg_read(n) for n in numbers] + [uc.reg_read(c.UC_ARM64_REG_SP)]
    nzcv = uc.reg_read(c.UC_ARM64_REG_NZCV) >> 28
    return values, nzcv, bytes(uc.mem_read(SCRATCH, SIZE))


def ours(code: Code, registers: Mapping[str, int]) -> tuple[list[int], int, bytes, Trace]:
    trace = run(code, registers, 1, Scratch(), stop=[BASE + 4])
    values = [trace.registers[f"x{i}"] for i in range(31)] + [trace.registers["SP_EL1"]]
    memory = bytearray(Scratch.content)
    for step in trace.steps:
        for event in step.events:
            if isinstance(event, Store) and event.value is not None:
                start = event.va - SCRATCH
                memory[start : start + event.size] = event.value.to_bytes(event.size, "little")
    return values, trace.registers["NZCV"], bytes(memory), trace


def state(r: Random) -> dict[str, int]:
    def value() -> int:
        special = [0, 1, 1 << 31, 1 << 63, (1 << 64) - 1, (1 << 32) - 1]
        return r.choice([r.getrandbits(64), r.getrandbits(64), r.getrandbits(32), *special])

    registers = {f"x{i}": value() for i in range(31)}
    registers |= {"x3": SCRATCH + 0x1000 + 8 * r.randrange(64), "x4": 8 * r.randrange(16)}
    return registers | {"sp": r.getrandbits(60) << 4, "NZCV": r.randrange(16)}


@pytest.mark.slow
def test_against_unicorn_and_machine_code() -> None:
    """Random statements of every form: text, decoded machine code and Unicorn agree."""
    r = Random(20)
    lines = [line(r, *form) for form in computing() for _ in range(PER_FORM)]
    kept = []
    for text in lines:
        if _overlaps(text):
            continue
        try:
            kept.append((text, assemble(text, BASE)))
        except InvalidError:
            continue  # the stack pointer or zero register where it is not possible
    assert len(kept) > 0.8 * len(lines)
    words = image("\n".join(text for text, _ in kept), BASE)
    for i, (text, assembly) in enumerate(kept):
        word = words[4 * i : 4 * i + 4]
        registers = state(r)
        expected = emulated(word, registers, registers["sp"])
        found = ours(assembly, registers)
        assert found[:3] == expected, text
        decoded = ours(MachineCode(word, BASE, BASE), registers)
        assert decoded[:3] == expected, text
        assert [s.events for s in decoded[3].steps] == [s.events for s in found[3].steps], text


@pytest.mark.slow
def test_random_words_against_unicorn() -> None:
    """Every random data-processing word that is accepted computes what Unicorn computes."""
    r = Random(21)
    checked = 0
    while checked < 1500:
        word = r.getrandbits(32) & 0xF1FF_FFFF | r.choice([0x1000_0000, 0x1200_0000, 0x0A00_0000])
        code = MachineCode(word.to_bytes(4, "little"), BASE, BASE)
        try:
            instruction = code.fetch(BASE)
        except UnsupportedError:
            continue
        assert instruction is not None
        registers = state(r)
        expected = emulated(code.data, registers, registers["sp"])
        assert ours(code, registers)[:3] == expected, instruction.text
        checked += 1


def _overlaps(text: str) -> bool:
    """Write-back forms with the base or twice the same target are UNPREDICTABLE."""
    parts = text.replace(",", " ").split()
    if text.startswith("ld") and len(parts) > 2 and parts[1] == parts[2]:
        return True
    names = {p.strip("[]!").lstrip("xw") for p in parts[1:3] if not p.startswith("[")}
    return "3" in names


def test_a_loop_that_never_ends() -> None:
    code = assemble("1: add x0, x0, #1\n b 1b", BASE)
    with pytest.raises(TtbrError, match=r"0x10000\d: this program: does not end within 65536"):
        run(code, {"x0": 0}, 1)


def test_a_branch_to_itself() -> None:
    with pytest.raises(TtbrError, match=r"^0x100000: b \.: the program never ends"):
        run(assemble("b .", BASE), {}, 1)


def events(text: str, el: int = 1, **registers: int) -> list[object]:
    trace = run(assemble(text, BASE), registers, el)
    return [event for step in trace.steps for event in step.events]


def test_a_loop_is_followed_to_its_end() -> None:
    trace = run(assemble("mov x0, #3\n1: subs x0, x0, #1\nb.ne 1b\nisb", BASE), {}, 1)
    assert [step.pc - BASE for step in trace.steps] == [0, 4, 8, 4, 8, 4, 8, 12]
    assert (trace.end.how, trace.end.target) == ("leaves the code", BASE + 16)


def test_the_stack() -> None:
    text = """
        stp x29, x30, [sp, #-16]!
        mov x29, sp
        bl  1f
        ldp x29, x30, [sp], #16
        ret
    1:  str x0, [sp, #-16]!
        ldr x1, [sp], #16
        ret
    """
    trace = run(assemble(text, BASE), {"x0": 5, "x30": 0x40, "x29": 1, "sp": 0x9000}, 2)
    assert trace.registers["x1"] == 5
    assert trace.registers["SP_EL2"] == 0x9000
    assert (trace.end.how, trace.end.target) == ("returns to its caller", 0x40)
    stack = [e for s in trace.steps for e in s.events if isinstance(e, Load | Store)]
    assert stack[:2] == [Store(0x8FF0, 8, 1), Store(0x8FF8, 8, 0x40)]
    assert stack[-1] == Load(0x8FF0, 16)


def test_stores_are_seen_through_an_alias() -> None:
    text = "str x0, [x1]\nldr x2, [x3]"
    given = {"x0": 9, "x1": 0x1000, "x3": 0xFFFF_0000_0000_1000}
    trace = run(assemble(text, BASE), given, 1, place=lambda va: va & 0xFFFF_FFFF)
    assert trace.registers["x2"] == 9
    assert "x2" not in run(assemble(text, BASE), given, 1).registers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cbz x0, .+8", "0x100000: cbz x0, .+8: the condition is unknown: x0 is not given"),
        ("b.eq .+8", "the condition is unknown: the flags are not given"),
        ("cmp x1, #0\nb.eq .+8", "0x100004: b.eq .+8: the condition is unknown: x1 is not given"),
        ("br x2", "the target is unknown: x2 is not given"),
        ("ldr x0, [x9]", "the address is unknown: x9 is not given"),
        ("ldr x0, [sp]", "the address is unknown: SP_EL1 is not given"),
        ("ldr x0, [x5]\nmsr ttbr0_el1, x0", "TTBR0_EL1 is unknown: loaded from 0x5000 at 0x100000"),
        ("ldr x0, [x5]\nadd x0, x0, #1\ntlbi vae1, x0", "the operand is unknown: loaded from 0x50"),
        ("mrs x0, tcr_el1\nmsr tcr_el1, x0", "TCR_EL1 is unknown: TCR_EL1 is not given"),
        ("msr ttbr0_el2, x5", "TTBR0_EL2 is UNDEFINED at EL1"),
        ("mrs x0, sctlr_el12", "SCTLR_EL12 is UNDEFINED at EL1"),
        ("tlbi alle2", "UNDEFINED at EL1"),
        ("bl 0x200000", "no code is given at 0x200000"),
        ("hvc #0", "VBAR_EL2 is unknown: VBAR_EL2 is not given"),
        ("smc #0", "smc at EL1 is not modelled"),
        ("dc zva, x5", "DCZID_EL0 is unknown"),
        ("adr x0, .\nmsr elr_el1, x0\neret", "SPSR_EL1 is unknown: SPSR_EL1 is not given"),
        ("at s1e1r, x5\nmrs x0, par_el1\ncbz x0, .+8", "unknown: the result of AT at 0x100000"),
    ],
)
def test_an_unknown_value_that_matters_is_refused(text: str, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        run(assemble(text, BASE), {"x5": 0x5000}, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_value_that_does_not_matter_is_carried() -> None:
    assert events("mov x1, x0\nmsr tpidr_el1, x1\nstr x0, [x5]", x5=64) == [
        Msr("TPIDR_EL1", None),
        Store(64, 8, None),
    ]


def test_hvc_goes_to_the_vector_and_comes_back() -> None:
    text = "hvc #0\nmrs x1, currentel\nb 1f\n.org 0x100400\nmrs x0, currentel\neret\n1: nop"
    trace = run(assemble(text, BASE), {"VBAR_EL2": BASE, "DAIF": 0x40, "NZCV": 5}, 1)
    assert [step.el for step in trace.steps] == [1, 2, 2, 1, 1, 1]
    assert trace.steps[0].events == (ExceptionEntry(2, BASE + 0x400),)
    assert trace.steps[2].events == (Eret(BASE + 4, 1),)
    wanted = {"x0": 8, "x1": 4, "DAIF": 0x40, "NZCV": 5}
    assert wanted.items() <= trace.registers.items()


def test_eret_by_a_written_spsr() -> None:
    text = "mov x0, #0x3c5\nmsr spsr_el2, x0\nadr x1, 1f\nmsr elr_el2, x1\neret\n1: nop"
    trace = run(assemble(text, BASE), {}, 2)
    assert trace.steps[-1].el == 1
    assert trace.registers["DAIF"] == 0x3C0


@pytest.mark.parametrize("spsr", [0x1C0, 0x3CD])
def test_eret_to_aarch32_or_a_higher_el_is_refused(spsr: int) -> None:
    text = f"mov x0, #{spsr | (0x10 if spsr == 0x1C0 else 0)}\nmsr spsr_el2, x0\neret"
    with pytest.raises(ProgramError, match="not an exception level to return to"):
        run(assemble(text, BASE), {"ELR_EL2": 4}, 2)


def test_a_fetch_that_is_meant_to_fault() -> None:
    """The enable that faults into the vectors: VBAR holds the run-time address."""
    text = "msr sctlr_el2, x0\nisb\nnop\n.org 0x100200\nvector: isb\n"
    code = assemble(text, BASE)
    registers = {"x0": 1, "VBAR_EL2": BASE}
    trace = run(code, registers, 2, faults=[BASE + 4])
    assert [step.pc - BASE for step in trace.steps] == [0, 4, 0x200]
    assert trace.steps[1].events == (Abort(isb=True), ExceptionEntry(2, BASE + 0x200))
    plain = assemble(text.replace("isb\nnop", "nop\nnop"), BASE)
    trace = run(plain, registers, 2, faults=[BASE + 4])
    assert trace.steps[1].events[0] == Abort(isb=False)


def test_pan_is_tracked() -> None:
    text = "nop\nmsr pan, #1\nmrs x1, pan\nmsr pan, xzr\nmrs x2, pan"
    trace = run(assemble(text, BASE), {}, 1)
    assert [step.pan for step in trace.steps] == [None, None, 1, 1, 0]
    assert (trace.registers["x1"], trace.registers["x2"]) == (1 << 22, 0)
    assert run(assemble("nop", BASE), {"PAN": 1}, 1).steps[0].pan == 1
    assert run(assemble("nop", BASE), {"ID_AA64MMFR1_EL1": 0}, 1).steps[0].pan == 0


@pytest.mark.parametrize(
    ("sctlr", "write", "after"),
    [
        ({"SCTLR_EL1": 0}, "", 1),
        ({"SCTLR_EL1": 1 << 23}, "", 0),
        ({}, "", None),
        ({"SCTLR_EL1": 0}, "mov x0, #1 << 23\nmsr sctlr_el1, x0\n", None),
        ({"SCTLR_EL1": 0}, "mov x0, #1 << 23\nmsr sctlr_el1, x0\nisb\n", 0),
    ],
)
def test_an_exception_sets_pan_unless_span(
    sctlr: dict[str, int], write: str, after: int | None
) -> None:
    """SCTLR_EL1.SPAN; without a synchronization it may be read as before (K1.2.4)."""
    text = f"{write}svc #0\nnop\nb 1f\n.org {BASE + 0x200}\nnop\neret\n1: nop"
    trace = run(assemble(text, BASE), {"PAN": 0, "VBAR_EL1": BASE, **sctlr}, 1)
    pans = {step.pc: step.pan for step in trace.steps}
    assert pans[BASE + 0x200] == after
    back = next(step for step in trace.steps if step.text == "nop" and step.pc < BASE + 0x200)
    assert back.pan == 0  # ERET gives back what SPSR_EL1 holds


@pytest.mark.parametrize("name", ["alle1is", "vmalls12e1", "ipas2e1is, x0", "vae2is, x0", "alle2"])
def test_tlbi_of_el2_is_undefined_at_el1(name: str) -> None:
    code = assemble(f"mov x0, #0\ntlbi {name}", BASE)
    assert len(run(code, {}, 2).steps) == 2
    with pytest.raises(ProgramError, match="UNDEFINED at EL1"):
        run(code, {}, 1)


def test_a_call_that_returns_is_not_looked_into() -> None:
    text = "bl 0x200000\ncbz x19, 1f\n1: nop"
    code = assemble(text, BASE)
    trace = run(code, {"x0": 1, "x19": 0}, 1, returns=[0x200000])
    assert trace.steps[0].events == (Branch(0x200000),)
    assert "x0" not in trace.registers
    assert trace.registers["x19"] == 0
    smc = run(assemble("smc #0", BASE), {"x0": 1}, 1, returns=["smc"])
    assert smc.steps[0].events == (ExceptionEntry(3, None), Eret(BASE + 4, 1))


def test_vhe_redirection() -> None:
    """With HCR_EL2.E2H the EL1 names reach the EL2 registers, and the EL12 names EL1's."""
    text = "msr ttbr0_el1, x0\nmsr ttbr0_el12, x0\nmsr vbar_el1, x0\nmsr cntkctl_el1, x0"
    names = [e.register for e in events(text, 2, x0=1, HCR_EL2=1 << 34) if isinstance(e, Msr)]
    assert names == ["TTBR0_EL2", "TTBR0_EL1", "VBAR_EL2", "CNTHCTL_EL2"]
    names = [e.register for e in events("msr ttbr0_el1, x0", 2, x0=1) if isinstance(e, Msr)]
    assert names == ["TTBR0_EL1"]


def test_dc_zva_stores_a_block() -> None:
    text = "dc zva, x0\nldr x1, [x0]"
    assert events(text, x0=0x1234, DCZID_EL0=4)[0] == Store(0x1200, 64, 0, zva=True)


def test_pstate() -> None:
    text = "msr daifset, #2\nmrs x0, daif\nmsr spsel, #0\nmov sp, x1\nmrs x2, spsel"
    trace = run(assemble(text, BASE), {"DAIF": 0, "x1": 0x700}, 1)
    wanted = {"x0": 0x80, "SP_EL0": 0x700, "x2": 0}
    assert wanted.items() <= trace.registers.items()


def test_barriers_and_tlbi() -> None:
    found = events("dsb ishst\ndsb nsh\ndsb ishnxs\ntlbi vae1is, x0\ntlbi vmalle1", x0=0x1234)
    assert found[:3] == [Dsb("ISH", "ST"), Dsb("NSH"), Dsb("ISH", "", True)]
    assert [(e.op.name, e.operand) for e in found[3:] if isinstance(e, Tlbi)] == [
        ("VAE1IS", 0x1234),
        ("VMALLE1", 0),
    ]
