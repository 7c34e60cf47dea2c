"""What a proof must see, or refuse, at the edges of the model: stage 2, VMIDs, AT, EL0, Device."""

from dataclasses import replace

import pytest

from emulate_tables import needs_unicorn
from ttbr.emulate import unicorn_run
from ttbr.emulate.scenario_job import scenario_job
from ttbr.errors import InvalidError, TtbrError, UnsupportedError
from ttbr.switch.explain import explain
from ttbr.switch.problem import BBM_LEVELS
from ttbr.switch.prove import prove
from ttbr.switch.scenario import Scenario, parse_scenario
from ttbr.switch.tlb import Leaf, conflict
from ttbr.switch.wording import explanation_lines

FILE = """
title = "limits"
regime = "EL1&0"
input_bits = 39
[region]
code = {{ va = 0x8020_0000, access = "rx" }}
hyp  = {{ va = 0x8020_1000, access = "rx", regime = "EL2" }}
data = {{ va = 0x4000_0000 }}
moved = {{ va = 0x4000_0000, pa = 0xb000_0000 }}
text = {{ va = 0x8020_2000, access = "rx", user = "rx" }}
uart = {{ va = 0x8020_3000, access = "rwx", memory = "device-nGnRnE" }}
hole = {{ va = 0x8020_4000, access = "rx" }}
[table.kernel]
map = ["code", "data", "text", "uart"]
{flags}
{guard}
[table.other]
map = ["code", "moved"]
[memory]
words = {{ 0x4000_0000 = 0, 0xb000_0000 = 0 }}
[registers]
from = ["kernel"]
TTBR0_EL2 = 0
TCR_EL2 = 0x80803519
SCTLR_EL2 = 0x30c50830
HCR_EL2 = {hcr}
{sctlr}
VBAR_EL2 = "hyp"
DCZID_EL0 = 4
PAN = 0
mmu = {mmu}
x0 = "other.TTBR0_EL1"
x1 = "data"
x2 = "hole"
x3 = "uart"
x4 = "code"
x5 = "text"
x6 = 0
x7 = 0x80000001
x8 = "1 << 48"
x9 = 0xd65f03c0
x20 = "other.TTBR0_EL1"
x21 = "data"
[program]
at = "code"
stop = ["done"]
{returns}
text = '''
{text}
'''
[intent]
reach = ["code", "hyp", "{data}", "text", "uart", "hole"]
"""


def scenario(
    text: str, mmu: bool = True, flags: str = "", data: str = "data", **more: str | int
) -> Scenario:
    if "done:" not in text:
        text += "\ndone: nop"
    given: dict[str, str | int] = {"guard": "", "sctlr": "", "hcr": 1 << 31, "returns": "", **more}
    file = FILE.format(text=text, mmu=str(mmu).lower(), flags=flags, data=data, **given)
    return parse_scenario(file, "limits.toml")


def kinds(text: str, mmu: bool = True, data: str = "data", sctlr: str = "") -> tuple[str, ...]:
    return prove(scenario(text, mmu, data=data, sctlr=sctlr).problem).kinds


def at_el2(text: str, after: str = "") -> str:
    """A call of EL2, which does *text*; EL1 then does *after*."""
    return f"hvc #0\n{after}\ndone: nop\n.org hyp + 0x400\ndsb sy\n{text}\neret"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (at_el2("msr hcr_el2, x7\nisb"), "changes HCR_EL2.VM"),
        (at_el2("msr hcr_el2, x6\nisb"), "changes HCR_EL2.RW"),
        (at_el2("msr vttbr_el2, x8\nisb"), "changes VTTBR_EL2.VMID"),
    ],
)
def test_stage_2_and_vmids_are_refused_when_el1_runs_under_them(text: str, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        prove(scenario(text).problem)


def test_a_vttbr_of_the_same_vmid_is_no_change() -> None:
    assert kinds(at_el2("msr vttbr_el2, x1\nisb")) == ()


def test_at_walks_a_regime_that_is_out_of_context() -> None:
    """R_LFHQG forbids speculative walks there; AT is none, and what it finds may be cached."""
    switch = "tlbi vmalle1\ndsb sy\nisb\n{at}isb\nmsr ttbr0_el1, x0\nisb"
    for at, wanted in (("", ()), ("at s1e1r, x1\n", ("WRONG-PA", "CONFLICT"))):
        text = at_el2(switch.format(at=at), "ldr x3, [x1]")
        assert kinds(text, data="moved") == wanted


def test_code_that_overwrites_itself_is_refused() -> None:
    with pytest.raises(InvalidError, match="the program has overwritten this instruction"):
        scenario("str w9, [x4, #8]\nnop\nnop\ndone: nop")


def test_a_fetch_from_device_memory_is_unpredictable() -> None:
    """B2.10: execute-never must be set; without it a Permission fault is permitted."""
    found = prove(scenario("br x3\n.org uart\nnop\ndone: nop").problem)
    assert found.kinds == ("PERM",)
    assert any("B2.10" in rule for rule in explain(found.findings[0]).rules)


def test_ic_by_address_is_translated() -> None:
    assert kinds("ic ivau, x2") == ("FAULT",)
    assert kinds("ic ivau, x1") == ()


@pytest.mark.parametrize("text", ["dc zva, x1", "ldr x6, [x1, #1]", "str w6, [x1, #2]"])
def test_what_faults_on_device_memory_with_the_mmu_off(text: str) -> None:
    """R_WFZPW: data is Device-nGnRnE then."""
    assert kinds(text, mmu=False) == ("FAULT",)
    assert kinds(text) == ()
    assert kinds("ldp w6, w7, [x1, #4]", mmu=False) == ()


@pytest.mark.parametrize(
    "text",
    [
        *("msr ttbr0_el1, x0", "mrs x6, tcr_el1", "dc ivac, x1", "dc cisw, x1", "ic iallu"),
        *("at s1e1r, x1", "msr pan, #1", "msr daifset, #2", "eret", "hvc #0", "smc #0"),
    ],
)
def test_what_el0_does_not_have(text: str) -> None:
    start = "msr spsr_el1, x6\nmsr elr_el1, x5\neret\n.org text\n"
    with pytest.raises(TtbrError, match=r"limits\.toml.*EL0"):
        scenario(start + text)
    allowed = "SCTLR_EL1 = 0x34d01805"  # UCI
    assert kinds(start + "mrs x6, nzcv\ndc civac, x5", sctlr=allowed) == ()
    with pytest.raises(InvalidError, match=r"SCTLR_EL1\.UCI=0 traps it"):
        scenario(start + "dc civac, x5")


@needs_unicorn
def test_tags_of_branches_and_data() -> None:
    """With TBI=1 neither counts; a branch drops it before the PC has it (AArch64.BranchAddr)."""
    tagged = "orr x3, x4, #(0xf << 56)\nadd x3, x3, #16\nbr x3\nnop\n"
    found = scenario(
        tagged + "orr x6, x1, #(0xf << 56)\nldr x6, [x6]\ndone: nop", flags="tbi = true"
    )
    assert prove(found.problem).safe
    job = scenario_job(found.problem, found.code, found.registers)
    assert unicorn_run.run(job).death is None


def test_a_tag_that_counts_says_so() -> None:
    found = prove(scenario("orr x6, x1, #(0xf << 56)\nldr x6, [x6]").problem)
    (fault,) = found.findings
    lines = explanation_lines(found, explain(fault))
    assert "read of 0xf00000040000000" in lines[1]
    assert any("TBI is 0" in line for line in lines)


def test_a_tlbi_of_another_regime_is_named() -> None:
    text = at_el2("msr ttbr0_el1, x0\nisb\ntlbi alle2\ndsb sy\nisb", "ldr x3, [x1]")
    found = prove(scenario(text, data="moved").problem)
    histories = explain(found.findings[0]).histories
    assert [why for _, why in histories[0].survived] == ["it acts on EL2, not on EL1&0"]


HOST = """
title = "a host"
regime = "EL2&0"
input_bits = 39
[region]
code = {{ va = 0x8020_0000, access = "rx" }}
user = {{ va = 0x8020_1000, access = "rx", user = "rx" }}
data = {{ va = 0x4000_0000, user = "rw", not_global = true }}
moved = {{ va = 0x4000_0000, pa = 0xb000_0000, user = "rw", not_global = true }}
[table.t]
map = ["code", "user", "data"]
[table.n]
map = ["code", "user", "moved"]
[memory]
words = {{ 0x4000_0000 = 0, 0xb000_0000 = 0 }}
[registers]
from = ["t"]
HCR_EL2 = {hcr}
VBAR_EL2 = "code + 0x800"
SPSR_EL2 = {spsr}
ELR_EL2 = "user"
PAN = 0
x0 = "n.TTBR0_EL2"
x2 = "data"
[program]
at = "code"
stop = ["done"]
text = '''
eret
.org code + 0xc00
msr ttbr0_el1, x0
isb
eret
.org user
{text}
done: nop
'''
[intent]
reach = ["code", "user", "{data}"]
"""
E2H, TGE = 1 << 34, 1 << 27


def host(text: str, data: str = "data", hcr: int = E2H | TGE | 1 << 31, spsr: int = 0) -> Scenario:
    file = HOST.format(text=text, data=data, hcr=hcr, spsr=spsr)
    return parse_scenario(file, "host.toml")


def test_el0_of_a_host_is_in_the_regime_of_el2() -> None:
    """Neither the exception nor a DSB ends its walks; SVC goes to EL2 (HCR_EL2.TGE=1)."""
    assert prove(host("dsb sy\nldr x3, [x2]").problem).safe
    switched = prove(host("dsb sy\nldr x3, [x2]\nsvc #0\nldr x3, [x2]", "moved").problem)
    assert "WRONG-PA" in switched.kinds
    el = [step.el for step in host("svc #0").problem.steps]
    assert el == [2, 0, 2, 2, 2, 0][: len(el)]


def test_el1_does_not_exist_with_tge() -> None:
    with pytest.raises(InvalidError, match="illegal exception return: EL1 with"):
        host("nop", spsr=5)


@pytest.mark.parametrize(
    ("branch", "landing", "lands"),
    [
        ("br x3", "bti j", True),
        ("br x3", "bti c", False),
        ("br x3", "nop", False),
        ("br x3", "paciasp", False),
        ("br x16", "bti c", True),
        ("br x16", "paciasp", True),
        ("blr x3", "bti c", True),
        ("blr x3", "bti jc", True),
        ("blr x3", "bti j", False),
    ],
)
def test_an_indirect_branch_into_a_guarded_page(branch: str, landing: str, lands: bool) -> None:
    """FEAT_BTI, by the GP bit of the page."""
    text = f"add x3, x4, #12\nmov x16, x3\n{branch}\n{landing}"
    found = scenario(text).problem
    assert prove(found).safe
    guarded = scenario(text, guard="set = [{ va = 0x8020_0000, value = 0x4000080200783 }]").problem
    assert prove(guarded).kinds == (() if lands else ("FAULT",))


def test_alignment_checks() -> None:
    assert kinds("ldr x6, [x1, #1]", sctlr="SCTLR_EL1 = 0x30d01807") == ("FAULT",)
    assert kinds("ldr x6, [x1, #8]", sctlr="SCTLR_EL1 = 0x30d01807") == ()
    with pytest.raises(InvalidError, match="not aligned: a fault without FEAT_LSE2"):
        scenario("add x3, x1, #1\nldar x6, [x3]")


@pytest.mark.parametrize(
    ("bit", "text"),
    [
        (26, "msr ttbr0_el1, x0"),
        (30, "mrs x6, tcr_el1"),
        (18, "mrs x6, id_aa64mmfr0_el1"),
        (25, "tlbi vmalle1is"),
        (54, "tlbi vmalle1is"),
        (22, "dc cisw, x6"),
        (23, "dc civac, x1"),
        (24, "ic ivau, x1"),
        (44, "at s1e1r, x1"),
    ],
)
def test_what_hcr_traps_is_refused(bit: int, text: str) -> None:
    with pytest.raises(InvalidError, match=r"HCR_EL2\.\w+=1 traps it"):
        scenario(text, hcr=1 << 31 | 1 << bit)
    assert scenario(text).trace.steps


def test_a_vector_and_a_tag_that_are_not_synchronized() -> None:
    with pytest.raises(InvalidError, match="VBAR_EL1 is not synchronized"):
        scenario("msr vbar_el1, x4\nsvc #0\ndone: nop\n.org code + 0x200\neret")
    assert scenario("msr vbar_el1, x4\nisb\nsvc #0\ndone: nop\n.org code + 0x200\neret").trace
    tagged = (
        "mrs x6, tcr_el1\norr x6, x6, #(1 << 37)\nmsr tcr_el1, x6\n{}orr x3, x4, #(0xf << 56)\n"
    )
    tagged += "add x3, x3, #32\nbr x3\n.org code + 32\nnop"
    with pytest.raises(InvalidError, match="TBI is not synchronized"):
        scenario(tagged.format(""))
    assert scenario(tagged.format("isb\n")).trace.steps


def test_a_call_that_returns_leaves_the_regime_where_it_was() -> None:
    text = "hvc #0\nisb\ndsb sy\nmsr ttbr0_el1, x20\nisb\nldr x3, [x21]"
    returned = scenario(text, data="moved", returns='returns = ["hvc"]').problem
    assert prove(returned).kinds == ("WRONG-PA", "CONFLICT")


@pytest.mark.parametrize("spsr", [1, 2, 0xC, 1 << 20])
def test_exception_returns_that_are_illegal(spsr: int) -> None:
    """SPSR_ELx.M[1], EL0 with SP_ELx, a higher EL, IL."""
    with pytest.raises(InvalidError, match="not an exception level to return to"):
        scenario(f"mov x6, #{spsr}\nmsr spsr_el1, x6\nmsr elr_el1, x5\neret\n.org text\nnop")


def test_stage_2_of_el0_and_the_size_of_a_vmid() -> None:
    problem = scenario("nop").problem
    steps = tuple(replace(step, el=0, hcr=1 << 27 | 1 << 31) for step in problem.steps)
    with pytest.raises(UnsupportedError, match=r"EL0 with HCR_EL2\.TGE=1 and E2H=0"):
        prove(replace(problem, steps=steps))
    with pytest.raises(UnsupportedError, match=r"VTCR_EL2\.VS"):
        prove(scenario(at_el2("mov x6, #(1 << 19)\nmsr vtcr_el2, x6\nisb")).problem)


@pytest.mark.parametrize("text", ["msr midr_el1, x6", "msr ctr_el0, x6", "msr dczid_el0, x6"])
def test_registers_that_are_read_only(text: str) -> None:
    with pytest.raises(InvalidError, match="is read-only"):
        scenario(text)


def test_a_stack_pointer_that_is_not_aligned() -> None:
    with pytest.raises(InvalidError, match="SP 0x40000008 is not a multiple of 16"):
        scenario("add sp, x1, #8\nldr x3, [sp]")
    assert kinds("add sp, x1, #16\nldr x3, [sp]") == ()


def test_a_granule_is_no_block_size() -> None:
    """FEAT_BBM is about blocks of one granule (R_FCPSG): another needs its TLBI (R_VNRFW)."""
    leaf = Leaf(None, 0, 4096, 0, 1 << 16, 0, 3, 12, 0xFF, 3, 7, 1 << 52 | 0x703, 0, 0x6000_0000)
    other = leaf._replace(size=1 << 16, shift=16, descriptor=0x703)
    assert [conflict(leaf, other, 0, bbm) for bbm in BBM_LEVELS] == ["CONFLICT"] * 4


def test_a_fault_is_not_put_down_to_a_landing() -> None:
    """An indirect branch to a hole: the walk faults, whatever stands there."""
    found = prove(scenario("br x2\n.org hole\nnop\ndone: nop").problem)
    assert found.kinds == ("FAULT",)
    assert not any("BTI" in rule for rule in explain(found.findings[0]).rules)
