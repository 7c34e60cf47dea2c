"""Scenario files: what they say, and one clear line for each thing that they can get wrong."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captures import directory
from ttbr.errors import InvalidError, MemoryFault, TtbrError, UnreadableError
from ttbr.switch.program import Load, Msr, Store, Tlbi
from ttbr.switch.scenario import Scenario, parse_scenario, read_scenario

TRAMPOLINE = '''
title = "TTBR0_EL2 is switched on a page that both tables map alike"
why = "the leaf is identical in both trees; the TLBI comes after the ISB"
rules = ["R_NWYRD", "R_VNRFW"]
regime = "EL2"

[expect]
verdict = "SAFE"
assuming = ["A-IC"]

[region]
code = { va = 0x4000_1000, access = "rx" }
runtime = { va = 0x80_0000_1000, pa = 0x4000_1000, access = "rx" }

[table.boot]
map = ["code"]

[table.hyp]
map = ["code", "runtime"]

[registers]
from = "boot"
x0 = "hyp.TTBR0_EL2"
x1 = "resume - code + runtime"

[program]
at = "code"
also = "runtime"
text = """
        msr     ttbr0_el2, x0
        isb
        tlbi    alle2
        dsb     nsh
        isb
        br      x1
resume: nop
"""

[intent]
reach = ["code", "runtime"]
'''

BREAK = '''
title = "an output address changed without a break"
regime = "EL1&0"

[region]
code = { va = 0x4000_0000, access = "rx" }
tables = { va = 0xffff_0000, pa = 0x6000_0000, size = 0x1_0000 }
before = { va = 0x4020_1000, pa = 0x5000_0000 }
after = { va = 0x4020_1000, pa = 0x5000_1000 }

[table.kernel]
map = ["code", "tables", "before"]

[place]
pte = { table = "kernel", va = 0x4020_1000, level = 3 }

[descriptor]
new = { table = "kernel", pa = 0x5000_1000 }
down = { table = "kernel", level = 2, next = { table = "kernel", level = 3, va = 0x4020_1000 } }

[memory]
words = { 0x5000_1008 = 0x1234 }

[registers]
from = "kernel"
x0 = "new"
x1 = "after >> 12"
x4 = "down"

[program]
at = "code"
text = """
        str     x0, [pte]
        dsb     ishst
        tlbi    vae1is, x1
        dsb     ish
        isb
        ldr     x2, [after + 8]
        ldr     x3, [pte]
"""

[intent]
reach = ["code", "tables"]
end = "after"

[options]
bbm = "2na"
ets2 = true
drop = ["A-IC", "A-DSB"]
line = 32
'''


def read(text: str) -> Scenario:
    return parse_scenario(text, "s.toml")


def word(scenario: Scenario, address: int) -> int:
    return int.from_bytes(scenario.problem.memory.read(address, 8), "little")


def test_trampoline() -> None:
    scenario = read(TRAMPOLINE)
    problem = scenario.problem
    assert scenario.name == "s"
    assert scenario.rules == ("R_NWYRD", "R_VNRFW")
    assert scenario.expected is not None
    assert scenario.expected.verdict == ("SAFE",)
    assert scenario.expected.assuming == {"A-IC"}
    assert [s.pc for s in problem.steps] == [*range(0x4000_1000, 0x4000_1018, 4), 0x80_0000_1018]
    assert problem.target == 0x80_0000_101C
    assert problem.steps[0].where == "s.toml:30"
    switched = problem.steps[0].events[0]
    assert isinstance(switched, Msr)
    assert switched.value is not None
    assert switched.value != problem.registers["TTBR0_EL2"]
    assert word(scenario, switched.value) & 3 == 3
    assert [i.name for i in problem.intent] == ["code", "runtime"]
    assert problem.options.assumptions == {"A-IC", "A-CTRL", "A-DSB"}


def test_break() -> None:
    scenario = read(BREAK)
    problem = scenario.problem
    events = [event for step in problem.steps for event in step.events]
    store, tlbi = events[0], events[2]
    assert isinstance(store, Store)
    assert isinstance(tlbi, Tlbi)
    place = store.va - 0xFFFF_0000 + 0x6000_0000
    assert word(scenario, place) & 0xFFFF_FFFF_F000 == 0x5000_0000
    assert store.value is not None
    assert store.value & 0xFFFF_FFFF_F000 == 0x5000_1000
    assert store.value & 0xFFF == word(scenario, place) & 0xFFF
    assert tlbi.operand == 0x4020_1000 >> 12
    assert scenario.trace.registers["x4"] == place & ~0xFFF | 3
    assert events[5] == Load(0x4020_1008, 8)
    assert scenario.trace.registers["x2"] == 0x1234
    assert scenario.trace.registers["x3"] == store.value
    assert {i.name: i.when for i in problem.intent}["after"] == "end"
    assert (problem.options.bbm, problem.options.ets2, problem.options.line) == ("2na", True, 32)
    assert problem.options.assumptions == {"A-CTRL"}


SKIP = """
title = "one root under two input sizes"
regime = "EL2"
input_bits = 39
[region]
code = { va = 0x40_0000_1000, pa = 0x80_0000_1000, access = "rx" }
[table.run]
map = ["code"]
[table.boot]
input_bits = 40
link = { 0 = "run", 1 = { table = "run", level = 2, va = 0x40_0000_1000 } }
set = [{ va = 0, level = 1, value = 7 }, { va = 8, level = 0, next = "boot" }]
[registers]
from = "run"
mmu = false
TCR_EL2 = { from = "run", T0SZ = 24 }
TPIDR_EL2 = 5
[program]
at = "code"
hex = "d5033fdf d65f03c0"
[intent]
reach = "code"
fault = "code"
"""


def test_links_single_descriptors_and_machine_code() -> None:
    scenario = read(
        SKIP.replace("link = { 0 =", "link = { 0 =").replace(
            '{ va = 8, level = 0, next = "boot" }', ""
        )
    )
    registers = scenario.problem.registers
    assert registers["SCTLR_EL2"] & 1 == 0
    assert registers["TCR_EL2"] & 0x3F == 24
    assert registers["TPIDR_EL2"] == 5
    assert [s.text for s in scenario.problem.steps] == ["isb", "ret"]
    assert scenario.problem.intent[0].fault
    run = registers["TTBR0_EL2"]
    assert word(scenario, run) == 7  # level 0 of boot links to run, whose entry 0 was set


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "TT', 'title = = "TT', "s.toml:2:9: Invalid value"),
        ("[intent]", "[intent", "s.toml:39:8: Expected"),
        ('regime = "EL2"', 'regime = "EL4"', "s.toml: regime: must be one of EL1&0, EL2, EL2&0"),
        ('regime = "EL2"', "", "s.toml: regime: is missing"),
        ('regime = "EL2"', 'regime = "EL2"\nfoo = 1', "s.toml: foo: there is no such field"),
        ('regime = "EL2"', 'regime = "EL2"\ngranule = "8K"', "s.toml: granule"),
        ('title = "TTBR0', 'name = "TTBR0', "s.toml: name: there is no such field"),
        ("x0 =", "TTBR1_EL2 = 0\nx0 =", "TTBR1_EL2: the regime EL2 does not have it"),
        ("x0 =", "TCR_EL9 = 0\nx0 =", "registers: TCR_EL9: there is no such register"),
        ("x0 =", "x31 = 0\nx0 =", "registers: x31: there is no such register"),
        ("x0 =", "TCR_EL2 = { T9SZ = 1 }\nx0 =", "TCR_EL2: TCR_EL2 has no field T9SZ"),
        ("x0 =", "TCR_EL2 = { T0SZ = 64 }\nx0 =", "TCR_EL2: T0SZ: 0x40 does not fit in bits 5:0"),
        ("x0 =", "TTBR0_EL2 = 0x7000_0000\nx0 =", "TTBR0_EL2: the table at 0x70000000 is not in"),
        ('"hyp.TTBR0_EL2"', "0x7000_0000", "s.toml: TTBR0_EL2: the table at 0x70000000 is not in"),
        ('"hyp.TTBR0_EL2"', '"hyp.TTBR0"', "x0: 'hyp.TTBR0': hyp.TTBR0 is not defined"),
        ('"hyp.TTBR0_EL2"', "-1", "registers: x0: -0x1 does not fit in 64 bits"),
        ('"hyp.TTBR0_EL2"', "1.5", "registers: x0: 1.5 is not a number"),
        ('from = "boot"', 'from = "bot"', "registers: table: there is no table 'bot'"),
        ('map = ["code"]', 'map = ["cod"]', "table: boot: map: there is no region 'cod'"),
        ('map = ["code"]', "map = 5", "table: boot: map: 5 is not a list of strings"),
        ('map = ["code"]', 'map = ["code"]\ninput_bits = 60', "table: boot: input size of 60 bits"),
        ('map = ["code"]', 'map = ["code"]\ngranule = "8K"', "table: boot: "),
        ('map = ["code"]', 'map = ["code"]\nupper = true', "table: boot: EL2 has no upper range"),
        ('map = ["code"]', 'link = { x = "hyp" }', "boot: link: x: is not an index below 512"),
        ('map = ["code"]', 'link = { 0 = "h" }', "boot: link: table: there is no table 'h'"),
        ('access = "rx"', 'access = "rq"', "region: code: access 'rq': must be letters of rwx"),
        ('access = "rx"', 'acess = "rx"', "region: code: 'acess' is not an attribute"),
        ('reach = ["code", "runtime"]', 'reach = ["x"]', "intent: reach: there is no region 'x'"),
        ('reach = ["code", "runtime"]', "", "intent: reach: nothing is meant to be reached"),
        ("reach =", 'unmapped = "code"\nreach =', "code contradicts itself: to be reached, and un"),
        (
            "va = 0x80_0000_1000, pa",
            "va = 0x4000_1000, pa",
            "table: hyp: region code 0x40001000-0x40",
        ),
        ('at = "code"', "", "program: at: is missing"),
        (
            "[intent]",
            "[memory]\ndevice = [5]\n[intent]",
            "memory: device: [5] is not a list of lis",
        ),
        ("[intent]", "[memory]\ndevice = [[5]]\n[intent]", "memory: device: is not a list of [add"),
        ('access = "rx"', 'regime = "EL3"', "region: code: regime: must be one of EL1&0, EL2, EL"),
        ('map = ["code"]', 'regime = "EL3"', "table: boot: regime: must be one of EL1&0, EL2, E"),
        (
            'map = ["code"]',
            'map = ["code"]\nregime = "EL1&0"',
            "SCTLR_EL2: is missing, and no table",
        ),
        ('at = "code"', 'at = "cod"', "program: at: 'cod': cod is not defined"),
        ('also = "runtime"', 'also = "x"', "program: also: 'x' is not a region of the intent"),
        (
            "msr     ttbr0_el2, x0",
            "msr ttbr9_el2, x0",
            "s.toml:30:13: msr: unknown system register",
        ),
        ("isb", "fmov d0, d1", "s.toml:31:9: fmov: this instruction is not modelled"),
        (
            "br      x1",
            "br x9",
            "program: 0x40001014: br x9: the target is unknown: x9 is not given",
        ),
        ("br      x1", "b .", "program: 0x40001014: b .: the program never ends"),
        ("isb", "1: b 2f; 2: b 1b", "this program: does not end within 65536 instructions"),
        ("dsb     nsh", "msr ttbr1_el12, x0", "TTBR1_EL12 is UNDEFINED at EL2"),
        (
            "[intent]",
            "[options]\nbbm = '3'\n[intent]",
            "options: bbm '3': must be one of 0, 1, 2, 2na",
        ),
        ("[intent]", "[options]\ndrop = 'A-X'\n[intent]", "options: assumption 'A-X': must be"),
        ("[intent]", "[options]\nets2 = 1\n[intent]", "options: ets2: 1 is not true or false"),
        ('text = """', 'file = "x.S"\ntext = """', "program: text: give one of text, file"),
        (
            "[intent]",
            "[memory]\ncapture = 'none.elf'\n[intent]",
            "none.elf",
        ),
    ],
)
def test_errors_are_one_line(old: str, new: str, message: str) -> None:
    with pytest.raises((InvalidError, UnreadableError)) as caught:
        read(changed(TRAMPOLINE, old, new))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("va = 0x4020_1000, level = 3", "va = 0, level = 3", "is not a table"),
        ("va = 0x4020_1000, level = 3", "va = 0x4020_1000, level = 7", "7 is not a level"),
        ("tables = {", "tabs = {", "there is no region 'tables'"),
        ('end = "after"', 'end = "after"\nalways = "before"', "intent contradicts itself"),
        ("words = { 0x5000_1008", "words = { here", "memory: words: here: is not an address"),
        ("words = { 0x5000_1008", "words = { 0x6000_0000", "segments overlap"),
        (
            'reach = ["code", "tables"]',
            'reach = ["code"]',
            "place: pte: no intent reaches the desc",
        ),
        ("ldr     x2, [after + 8]", "ldr x2, [after]\n cbz x2, .+8", "nothing is given"),
    ],
)
def test_more_errors(old: str, new: str, message: str) -> None:
    with pytest.raises((InvalidError, UnreadableError)) as caught:
        read(changed(BREAK, old, new))
    assert message in str(caught.value)


def test_a_routine_of_a_release() -> None:
    """The kernel's own sequence in place of the text."""
    head, rest = TRAMPOLINE.split('text = """')
    _, tail = rest.split('"""')
    given = "\n".join(f"x{n} = 0x4000_1000" for n in (2, 3))
    given += '\nx8 = "target - code + runtime"\nx1 = "hyp.TTBR0_EL2"\nx4 = "boot.TCR_EL2"'
    given += '\nx5 = "boot.MAIR_EL2"\nx6 = "boot.SCTLR_EL2"\nmmu = false'
    text = head.replace('x1 = "resume - code + runtime"', given).replace(
        'x0 = "hyp.TTBR0_EL2"', 'x0 = "boot.TTBR0_EL2"'
    )
    scenario = read(text + 'linux = "hyp-init-trampoline"\nrelease = "4.4"\n' + tail)
    assert scenario.problem.steps[0].where == "linux hyp-init-trampoline:1"
    assert scenario.trace.end.how == "returns from the exception"
    with pytest.raises(
        InvalidError, match="program: linux: 'x': must be one of hyp-init-trampoline"
    ):
        read(head + 'linux = "x"\n' + tail)


def test_a_captured_kernel(tmp_path: Path) -> None:
    """Tables, registers and machine code of a capture; paths are relative to the file."""
    moment = directory() / "lin61-4k39-512G-nvhe" / "02_enable_mmu_entry"
    code = directory() / "code" / "lin61-4k39" / "__enable_mmu.bin"
    if not moment.is_dir() or not code.is_file():
        pytest.skip("the capture is not at hand")
    (tmp_path / "tables.elf.gz").symlink_to(moment / "tables.elf.gz")
    path = tmp_path / "enable.toml"
    path.write_text(f"""
title = "__enable_mmu"
regime = "EL1&0"
[region]
idmap = {{ va = 0x80_0040_0000, access = "rx" }}
[memory]
capture = "tables.elf.gz"
empty = [0x80_004c_6000]
[registers]
capture = "{moment}/state.json"
[program]
at = 0x80_0040_0374
code = "{code}"
[intent]
reach = "idmap"
""")
    scenario = read_scenario(path)
    assert scenario.name == "enable"
    assert scenario.problem.registers["TCR_EL1"]
    assert scenario.trace.end.target == 0x80_0040_0448
    assert [s.text for s in scenario.problem.steps if "ttbr" in s.text.lower()] == [
        "msr TTBR0_EL1, x2",
        "msr TTBR1_EL1, x1",
    ]
    with pytest.raises(UnreadableError, match=r"missing\.toml"):
        read_scenario(tmp_path / "missing.toml")


def test_environment() -> None:
    scenario = read(TRAMPOLINE + '[[environment]]\nfrom = "hyp"\n')
    assert [e.regime for e in scenario.problem.environment] == ["EL2"]
    with pytest.raises(MemoryFault):
        scenario.problem.memory.read(0, 8)


LINES = [line for line in (TRAMPOLINE + BREAK + SKIP).split("\n") if line]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=8), max_size=30), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_scenario_or_one_clear_error(extra: list[str], cut: int) -> None:
    base = TRAMPOLINE.strip().split("\n")
    message = "s.toml"
    try:
        read("\n".join([*base[:cut], *extra, *base[cut + len(extra) :]]))
    except TtbrError as error:
        message = str(error)
    assert "\n" not in message
    assert "s.toml" in message
