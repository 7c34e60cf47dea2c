"""Machine code: every word decodes or is refused, ELF files, and a real kernel's routines."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gnu
from captures import directory
from ttbr.errors import MemoryFault, TtbrError, UnreadableError, UnsupportedError
from ttbr.switch.interpreter import run
from ttbr.switch.machinecode import MachineCode, decode, from_elf
from ttbr.switch.program import Isb, Layout, Msr, ProgramError, Tlbi, Trace

CAPTURES = directory()
LOAD = 0x80_0020_0000  # kernel_load_pa of the capture
KIMAGE = 0xFFFF_FFC0_0800_0000  # link-time _text


@given(st.integers(0, 2**32 - 1) | st.integers(0xD500_0000, 0xD53F_FFFF))
@example(0)
@settings(max_examples=3000, deadline=None)
def test_any_word_decodes_or_is_refused(word: int) -> None:
    message = "0x"
    try:
        code = MachineCode(word.to_bytes(4, "little"), 0x1000, 0x1000)
        run(code, {}, 1, limit=2)
    except TtbrError as error:
        message = str(error)
    assert message.startswith("0x")
    assert "\n" not in message


def test_unknown_words_are_refused_with_address_and_text() -> None:
    with pytest.raises(UnsupportedError, match=r"^0x4000: fmov d0, x0: this instruction is not"):
        decode(0x9E670000, 0x4000)
    with pytest.raises(UnsupportedError, match=r"^0x4000: udf #0: this instruction is not"):
        decode(0, 0x4000)


TEXT = """
.globl first
first:  mov x9, x30
        bl second
        mov x30, x9
        msr ttbr0_el2, x0
        isb
        ret
second: adrp x0, first
        orr x0, x0, #1
        ret
"""


def test_elf(tmp_path: Path) -> None:
    """The code of a symbol, at its linked address and at another one."""
    path = tmp_path / "image"
    gnu.elf(TEXT, path, 0x4010_0000)
    for at in (None, 0x8000_0000):
        base = at or 0x4010_0000
        code = from_elf(str(path), "first", at)
        trace = run(code, {"x30": 0x99}, 2)
        assert [e for s in trace.steps for e in s.events if isinstance(e, Msr)] == [
            Msr("TTBR0_EL2", base + 1)
        ]
        assert trace.steps[2].where == "second+0x0"
        assert (trace.end.how, trace.end.target) == ("returns to its caller", 0x99)


def test_elf_errors(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with pytest.raises(UnreadableError, match="No such file"):
        from_elf(str(path), "first")
    path.write_bytes(b"not an ELF file")
    with pytest.raises(UnreadableError, match="image: "):
        from_elf(str(path), "first")
    gnu.elf(TEXT, path, 0x4010_0000)
    with pytest.raises(UnreadableError, match="image: no symbol third"):
        from_elf(str(path), "third")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableError, match="image: "):
        from_elf(str(path), "first")


# The routines of Linux 6.1 (4K pages, VA_BITS 39, RAM at 512 GB), with the registers of a capture.


def _index() -> dict[str, int]:
    path = CAPTURES / "code" / "lin61-4k39" / "index.json"
    if not path.exists():
        pytest.skip("no captures")
    return {entry["name"]: int(entry["va"], 16) for entry in json.loads(path.read_text())}


def routine(name: str, at: int | None = None) -> MachineCode:
    """A routine where the kernel was loaded, as the ID map runs it."""
    base = _index()[name] - KIMAGE + LOAD if at is None else at
    data = (CAPTURES / "code" / "lin61-4k39" / f"{name}.bin").read_bytes()
    return MachineCode(data, base, base, {name: base})


def captured(moment: str) -> tuple[dict[str, int], int]:
    """Registers by Arm name and the EL of a moment."""
    path = CAPTURES / "lin61-4k39-512G-nvhe" / moment / "state.json"
    if not path.exists():
        pytest.skip("no captures")
    state = json.loads(path.read_text())
    registers = {name: int(value, 16) for name, value in state["sysregs"].items()}
    core = {name: int(value, 16) for name, value in state["core"].items()}
    cpsr = core.pop("cpsr")
    registers |= {"NZCV": cpsr >> 28, "DAIF": cpsr & 0x3C0, "SPSEL": cpsr & 1}
    del core["pc"]
    return registers | core, state["el"]


def msrs(trace: Trace) -> dict[str, int | None]:
    return {e.register: e.value for s in trace.steps for e in s.events if isinstance(e, Msr)}


def names(trace: Trace) -> list[str]:
    return [type(e).__name__ for s in trace.steps for e in s.events]


class Words:
    """64-bit words by address."""

    def __init__(self, words: dict[int, int]) -> None:
        self.words = words

    def read(self, address: int, size: int) -> bytes:
        start = address & ~7
        if start not in self.words:
            raise MemoryFault(address, size)
        return self.words[start].to_bytes(8, "little")[address - start :][:size]


def test_cpu_setup() -> None:
    """TCR and MAIR come out as the running kernel has them, SCTLR as __enable_mmu gets it."""
    registers, el = captured("02_enable_mmu_entry")
    before = dict.fromkeys(("TCR_EL1", "MAIR_EL1"), 0)
    given = registers | before | {"ID_AA64PFR0_EL1": 0x2222}
    trace = run(routine("__cpu_setup"), given, el)
    written = msrs(trace)
    assert written["TCR_EL1"] == registers["TCR_EL1"]
    assert written["MAIR_EL1"] == registers["MAIR_EL1"]
    assert trace.registers["x0"] == registers["x0"]
    assert trace.end.how == "returns to its caller"


def test_cpu_setup_needs_its_id_register() -> None:
    registers, el = captured("02_enable_mmu_entry")
    with pytest.raises(ProgramError, match="ID_AA64PFR0_EL1 is not given") as caught:
        run(routine("__cpu_setup"), registers, el)
    assert caught.value.address == routine("__cpu_setup").base + 0x40


def test_enable_mmu() -> None:
    registers, el = captured("02_enable_mmu_entry")
    after, _ = captured("04_mmu_just_on_idmap")
    trace = run(routine("__enable_mmu"), registers, el)
    written = msrs(trace)
    assert list(written) == ["TTBR0_EL1", "TTBR1_EL1", "SCTLR_EL1"]
    assert written["TTBR0_EL1"] == after["TTBR0_EL1"]
    assert written["TTBR1_EL1"] == after["TTBR1_EL1"]
    assert registers["x0"] & ~(1 << 37) == after["SCTLR_EL1"]  # ITFSB is RES0 without MTE
    assert names(trace) == ["Msr", "Msr", "Isb", "Msr", "Isb", "Ic", "Dsb", "Isb", "Branch"]


def test_primary_switch_with_calls() -> None:
    """Calls into the kernel are declared; the end is the jump to the run-time address."""
    registers, el = captured("02_enable_mmu_entry")
    switch, enable = routine("__primary_switch"), routine("__enable_mmu")
    code = Layout(switch.entry, ((switch, 0), (enable, 0)))
    with pytest.raises(ProgramError, match="no code is given at 0x80004d48e8"):
        run(code, registers, el)
    calls = [LOAD + offset for offset in (0x2D48E8, 0x2D63A8, 0x2D6520, 0x2003EC)]
    with pytest.raises(ProgramError, match="br x8: the target is unknown: loaded from"):
        run(code, registers, el, returns=calls)
    literal = Words({LOAD + 0x2004A0: KIMAGE + 0x2D0000})
    trace = run(code, registers, el, literal, returns=calls)
    assert trace.end.target == KIMAGE + 0x2D0000
    assert msrs(trace)["TTBR1_EL1"] == LOAD + 0x41B000


def test_replace_ttbr1() -> None:
    registers, el = captured("08_replace_ttbr1_entry")
    after, _ = captured("10_replace_ttbr1_done")
    trace = run(routine("idmap_cpu_replace_ttbr1"), registers, el)
    assert msrs(trace)["TTBR1_EL1"] == after["TTBR1_EL1"]
    assert names(trace)[1:9] == ["Msr", "Isb", "Tlbi", "Dsb", "Isb", "Msr", "Isb", "Msr"]
    assert trace.end.target == registers["x30"]


def test_kvm_hyp_init() -> None:
    """With the parameter block in memory, EL2 comes out as the captured EL2 is."""
    registers, el = captured("20_do_hyp_init")
    after, _ = captured("21_before_sctlr_el2")
    block = 0x80_0086_EE50
    registers["x0"] = block
    code = routine("__kvm_nvhe____kvm_hyp_init")
    with pytest.raises(ProgramError, match="MAIR_EL2 is unknown: loaded from 0x800086ee50"):
        run(code, registers, el)
    t0sz_only = after["TCR_EL2"] & ~(7 << 16)
    offsets = {
        0x00: after["MAIR_EL2"],
        0x08: t0sz_only,
        0x28: after["TTBR0_EL2"],
        0x30: after["HCR_EL2"],
    }
    words = {block + offset: value for offset, value in offsets.items()}
    trace = run(code, registers, el, Words(words))
    written = msrs(trace)
    for name in ("MAIR_EL2", "TCR_EL2", "TTBR0_EL2", "HCR_EL2"):
        assert written[name] == after[name], name
    assert written["SCTLR_EL2"] == after["x0"]
    tlbis = [e.op.name for s in trace.steps for e in s.events if isinstance(e, Tlbi)]
    assert tlbis == ["ALLE2", "VMALLS12E1"]
    assert trace.end.target == registers["x30"]


def test_pkvm_switch_pgd() -> None:
    registers, el = captured("22_el2_mmu_on")
    block = 0x1000
    registers |= {"x0": block, "x1": 0x4D_2000_0000}
    words = Words({block + 0x28: 0x80_1234_5000, block + 0x18: 0x4D_2100_0000})
    trace = run(routine("__kvm_nvhe___pkvm_init_switch_pgd"), registers, el, words)
    assert msrs(trace)["TTBR0_EL2"] == 0x80_1234_5000
    sctlr = [
        e.value
        for s in trace.steps
        for e in s.events
        if isinstance(e, Msr) and e.register == "SCTLR_EL2"
    ]
    assert sctlr == [registers["SCTLR_EL2"] & ~1, registers["SCTLR_EL2"]]
    assert trace.end.target == 0x4D_2000_0000


def test_cpu_do_switch_mm() -> None:
    """The ASID of the mm goes to TTBR1_EL1, the table to TTBR0_EL1."""
    registers, _ = captured("42_kernel_irq_from_user")
    mm, pgd, capabilities = 0xFFFF_FF80_0100_0000, 0x80_0200_0000, 0xFFFF_FFC0_083E_B510
    registers |= {"x0": pgd, "x1": mm}
    code = routine("cpu_do_switch_mm", _index()["cpu_do_switch_mm"])
    trace = run(code, registers, 1, Words({mm + 0x2D0: 0x10042, capabilities: 0}))
    ttbr1 = registers["TTBR1_EL1"] & (1 << 48) - 1
    assert msrs(trace) == {"TTBR1_EL1": ttbr1 | 0x42 << 48, "TTBR0_EL1": pgd}
    assert sum(isinstance(e, Isb) for s in trace.steps for e in s.events) == 2


def test_cpu_do_resume() -> None:
    """The saved registers come from memory; T0SZ of the running TCR is kept."""
    registers, _ = captured("10_replace_ttbr1_done")
    place = 0x80_0300_0000
    saved = {place + 8 * i: 0x1000 + i for i in range(13)}
    given = registers | {"x0": place, "ID_AA64PFR0_EL1": 0x2222}
    trace = run(routine("cpu_do_resume"), given, 1, Words(saved))
    t0sz = registers["TCR_EL1"] & 0x3F
    assert msrs(trace)["TCR_EL1"] == (saved[place + 0x28] & ~0x3F) | t0sz
    assert msrs(trace)["SCTLR_EL1"] == saved[place + 0x48]
    assert trace.end.how == "returns to its caller"


def test_cpu_soft_restart() -> None:
    """With x0 = 0 it jumps to x1; else the HVC goes to the EL2 vectors, which are not given."""
    registers, el = captured("10_replace_ttbr1_done")
    code = routine("cpu_soft_restart")
    trace = run(code, registers | {"x0": 0, "x1": 0x4000}, el)
    assert trace.end.target == 0x4000
    trace = run(code, registers | {"x0": 1}, el)
    assert trace.end.target == registers["VBAR_EL2"] + 0x400
    with pytest.raises(ProgramError, match="target is unknown: changed by the hvc"):
        run(code, registers | {"x0": 1}, el, returns=["hvc"])


def test_enter_vhe() -> None:
    """With E2H set, SCTLR_EL1 is SCTLR_EL2 and SCTLR_EL12 is SCTLR_EL1."""
    registers, el = captured("20_do_hyp_init")
    code = routine("enter_vhe")
    with pytest.raises(ProgramError, match="SCTLR_EL12 is UNDEFINED at EL2"):
        run(code, registers, el)
    given = registers | {"HCR_EL2": 1 << 34 | 1 << 27, "SCTLR_EL1": 0x1234, "SPSR_EL2": 0x3C9}
    trace = run(code, given | {"ELR_EL2": 0x8000}, el)
    assert msrs(trace) == {"SCTLR_EL2": 0x1234, "SCTLR_EL1": 0x30500800}
    tlbi = next((s, e) for s in trace.steps for e in s.events if isinstance(e, Tlbi))
    assert tlbi[1].op.regime(tlbi[0].el, tlbi[0].hcr) == "EL2&0"
    assert trace.end.target == 0x8000


def test_hyp_init_vectors() -> None:
    """The vector page's other entries are `b .`: a program that never ends."""
    registers, el = captured("20_do_hyp_init")
    with pytest.raises(ProgramError, match="never ends: a branch to itself"):
        run(routine("__kvm_nvhe___kvm_hyp_init"), registers, el)
