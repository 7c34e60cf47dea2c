"""Every strategy on real boards: applicable or why not, its tables walked, its code run."""

import re

import pytest

from ttbr import boards
from ttbr.arch.regime import EL2, Regime, regime_of
from ttbr.build import Arena, features_of_params
from ttbr.errors import InvalidError
from ttbr.linux.config import KernelConfig, configure
from ttbr.linux.realise import Realised, measure, realise
from ttbr.linux.strategies import STRATEGIES, plan, plans, shipped
from ttbr.switch.assembly import assemble
from ttbr.switch.interpreter import run
from ttbr.switch.program import Isb, Layout, Msr
from ttbr.walk import EXECUTE, READ, Mapping, translate

GIB = 1 << 30
SEATTLE = [(0x8000000000, 16 * GIB)]
XGENE = [(0x4000000000, 16 * GIB)]
LX2160A = [(0x80000000, 0x7BE00000), (0x2080000000, 12 * GIB)]
HIGH = [(0x40000000000, GIB)]
M1_MAX = [(0x10000000000, GIB)]


def kernel(release: str, page: str, bits: int, base: int, **more: bool) -> KernelConfig:
    return configure(
        release, page, bits, base + 0x200000, image_end=base + 0x800000,
        idmap_text=base + 0x400000, hyp_text=base + 0x5F0000, **more,
    )  # fmt: skip


BOARDS = {
    "seattle 4K/39": (kernel("4.4", "4K", 39, 0x8000000000), SEATTLE),
    "xgene 4K/39": (kernel("4.4", "4K", 39, 0x4000000000), XGENE),
    "lx2160a 4K/39": (kernel("5.4", "4K", 39, 0x80000000), LX2160A),
    "lx2160a 4K/39 5.6": (kernel("5.6", "4K", 39, 0x80000000), LX2160A),
    "high 64K/42": (kernel("5.15", "64K", 42, 0x40000000000), HIGH),
    "m1 max 16K/36": (kernel("6.1", "16K", 36, 0x10000000000), M1_MAX),
    "seattle 6.12": (kernel("6.12", "4K", 39, 0x8000000000), SEATTLE),
    "52 bits": (kernel("6.12", "4K", 52, 0x80000000, va52=True), LX2160A),
}
# What serves each board.
SERVES = {
    "seattle 4K/39": "shared-idmap merged-root dedicated-root level-skip-v1 level-skip-v2 "
    "level-skip-v3 level-skip-v4 mmu-off wide-hyp always-48",
    "xgene 4K/39": "separate mmu-off single-split wide-hyp always-48",
    "lx2160a 4K/39": "separate wide-hyp always-48",
    "lx2160a 4K/39 5.6": "separate mmu-off single-split wide-hyp always-48",
    "high 64K/42": "shared-idmap merged-root dedicated-root level-skip-v1 level-skip-v2 "
    "level-skip-v4 mmu-off wide-hyp always-48",
    "m1 max 16K/36": "shared-idmap merged-root dedicated-root level-skip-v1 level-skip-v2 "
    "level-skip-v4 mmu-off wide-hyp always-48",
    "seattle 6.12": "shared-idmap merged-root dedicated-root level-skip-v1 level-skip-v2 "
    "level-skip-v3 level-skip-v4 mmu-off wide-hyp always-48",
    "52 bits": "mmu-off single-split always-48",
}


@pytest.mark.parametrize("board", BOARDS)
def test_what_serves_a_board(board: str) -> None:
    config, memory = BOARDS[board]
    found = plans(config, memory)
    assert [p.strategy.name for p in found] == list(STRATEGIES)
    assert {p.strategy.name for p in found if p.applicable} == set(SERVES[board].split())
    for p in found:
        assert "\n" not in p.why_not
        # What cannot work has tables all the same, to show that it does not.
        shown = (p.strategy.name, bool(p.roots)) in {("level-skip", True), ("mmu-off-narrow", True)}
        assert bool(p.roots) is ((p.applicable and p.strategy.name != "vhe") or shown)


APPLICABLE = [
    pytest.param(board, name, id=f"{board}-{name}")
    for board, names in SERVES.items()
    for name in names.split()
]


def made(board: str, name: str) -> Realised:
    config, memory = BOARDS[board]
    found = plan(name, config, memory)
    return realise(found, Arena.at(config.image.end + (1 << 24), config.granule))


def regimes(done: Realised) -> tuple[Regime, Regime]:
    """How the first and the last root are walked, from the values that the sequence writes."""
    features = features_of_params(done.tables[0].params)
    values = done.values
    first = {"TTBR0_EL2": values["boot_ttbr0"], "TCR_EL2": values["tcr"]}
    first |= {"MAIR_EL2": values["mair"], "SCTLR_EL2": values["sctlr"]}
    last = first | {"TTBR0_EL2": done.values["run_ttbr0"], "TCR_EL2": done.values["run_tcr"]}
    return regime_of(first, EL2, features), regime_of(last, EL2, features)


@pytest.mark.parametrize(("board", "name"), APPLICABLE)
def test_the_tables_map_the_regions(board: str, name: str) -> None:
    done = made(board, name)
    memory = done.tables[0].memory()
    first, last = regimes(done)
    p = done.plan
    page = p.config.image.hyp
    found = translate(memory, first, page, EXECUTE)
    assert isinstance(found, Mapping)
    assert found.pa == page
    for region in p.sections:
        for va in (region.va, region.va + region.size // 2, region.last):
            found = translate(memory, last, va, READ)
            assert isinstance(found, Mapping), hex(va)
            assert found.pa == region.pa + va - region.va
    assert 64 - p.run_t0sz == last.lower.input_bits  # type: ignore[union-attr]


@pytest.mark.parametrize(("board", "name"), APPLICABLE)
def test_the_sequence_runs_through_mapped_code(board: str, name: str) -> None:
    """Each instruction is fetched at an address that the registers in force map to the code."""
    done = made(board, name)
    sequence, memory = done.plan.sequence, done.tables[0].memory()
    assert sequence is not None
    code = assemble(sequence.text, done.entry)
    inputs = {x: done.values[value] for x, value in sequence.inputs.items()}
    state = dict(done.registers)
    assert sequence.mmu or not any(state[n] for n in ("TTBR0_EL2", "TCR_EL2", "MAIR_EL2"))
    layout = Layout(done.entry, ((code, 0), (code, done.run_offset)))
    trace = run(layout, inputs | state, 2)
    assert len(trace.steps) >= len(code.instructions) - 1
    pending: dict[str, int] = {}
    features = features_of_params(done.tables[0].params)
    for step in trace.steps:
        where = step.pc
        if state["SCTLR_EL2"] & 1:
            found = translate(memory, regime_of(state, EL2, features), step.pc, EXECUTE)
            assert isinstance(found, Mapping), step
            where = found.pa
        assert where in code.instructions, step
        for event in step.events:
            if isinstance(event, Msr) and event.register in state:
                assert event.value is not None
                pending[event.register] = event.value
            elif isinstance(event, Isb):
                state |= pending
                pending = {}


def test_a_plan_says_its_release() -> None:
    config, memory = BOARDS["seattle 4K/39"]
    assert str(plan("merged-root", config, memory).config.release) == "4.4"
    wide = plan("wide-hyp", config, memory)
    assert str(wide.config.release) == "5.10"
    assert not wide.strategy.ships_in(config.release)
    assert STRATEGIES["merged-root"].ships_in(config.release)


@pytest.mark.parametrize(
    ("board", "name", "why"),
    [
        ("seattle 4K/39", "separate", "needs 40 bits .T0SZ 24., the run-time tables have 39"),
        ("seattle 4K/39", "single-split", "one table of that size cannot hold both"),
        ("seattle 4K/39", "level-skip", "0b01 at level 3 is reserved"),
        ("seattle 4K/39", "vhe", "HCR_EL2.E2H"),
        ("xgene 4K/39", "merged-root", "no extra level"),
        ("xgene 4K/39", "level-skip-v1", "no level to skip"),
        ("lx2160a 4K/39", "single-split", "IDMAP intersecting with HYP VA, unable to continue"),
        ("m1 max 16K/36", "level-skip-v3", "not all RAM|no block|page under one T0SZ"),
        ("52 bits", "separate", "rules of Linux 3.11 to 4.7 only.*since Linux 6.9"),
        ("seattle 4K/39", "mmu-off-narrow", "is above 2.39: the next instruction"),
        ("m1 max 16K/36", "mmu-off-narrow", "is above 2.36: the next instruction"),
        ("xgene 4K/39", "mmu-off-narrow", "the same as mmu-off"),
        ("lx2160a 4K/39", "mmu-off-narrow", "IDMAP intersecting|the same as mmu-off"),
    ],
)
def test_why_not(board: str, name: str, why: str) -> None:
    found = plan(name, *BOARDS[board])
    assert re.search(why, found.why_not), found.why_not
    if not found.roots:
        with pytest.raises(InvalidError):
            measure(found)


@pytest.mark.parametrize(
    ("name", "extra", "levels", "t0sz", "junk"),
    [
        ("shared-idmap", 0, 4, (24,), False),
        ("merged-root", 1, 4, (24,), False),
        ("level-skip-v1", 0, 3, (24, 25), False),
        ("level-skip-v2", 2, 3, (24, 25), True),
        ("level-skip-v3", 1, 3, (24, 25), True),
        ("level-skip-v4", 2, 3, (24, 25), True),
        ("wide-hyp", 1, 4, (24,), False),
        ("always-48", 1, 4, (16,), False),
    ],
)
def test_comparison_on_seattle(
    name: str, extra: int, levels: int, t0sz: tuple[int, ...], junk: bool
) -> None:
    numbers = measure(plan(name, *BOARDS["seattle 4K/39"]))
    assert (numbers.extra_tables, numbers.levels, numbers.t0sz) == (extra, levels, t0sz)
    assert bool(numbers.junk) is junk


def test_private_room() -> None:
    config = kernel("5.4", "4K", 39, 0x8000000000)
    assert measure(plan("merged-root", config, SEATTLE)).room == 0x5F0000


def test_vhe_needs_nothing() -> None:
    config = kernel("6.1", "4K", 39, 0x8000000000, vhe=True)
    found = plan("vhe", config, SEATTLE)
    assert found.applicable
    assert found.needs == ("FEAT_VHE",)
    assert measure(found).extra_tables == 0
    with pytest.raises(InvalidError, match="no tables of its own"):
        realise(found, Arena.at(0x8000000000))


def test_an_unknown_strategy() -> None:
    with pytest.raises(InvalidError, match="must be one of separate, shared-idmap"):
        plan("magic", *BOARDS["xgene 4K/39"])


def test_a_board_without_the_image() -> None:
    with pytest.raises(InvalidError, match="not inside one memory window"):
        plan("separate", BOARDS["xgene 4K/39"][0], SEATTLE)


@pytest.mark.parametrize(
    ("board", "release", "base", "t0sz", "slot", "serves"),
    [
        ("seattle", "4.1", 0x8000000000, 24, 1, "merged-root"),
        ("sbsa-ref", "4.5", 0x10000000000, 23, 2, "merged-root"),
        ("altra-ava", "5.4", 0x807F6C00000, 20, 16, "merged-root"),
        ("xgene1", "4.1", 0x4000000000, 25, 0, "separate"),
        ("lx2160a", "5.6", 0x80000000, 25, 0, "single-split"),
        ("apple-m1-max", "6.1", 0x10000000000, 23, 2, "wide-hyp"),
    ],
)
def test_boards_of_the_catalogue(
    board: str, release: str, base: int, t0sz: int, slot: int, serves: str
) -> None:
    config = kernel(release, "4K", 39, base)
    found = plan(serves, config, boards.load(board))
    assert found.applicable, found.why_not
    assert STRATEGIES[serves].ships_in(config.release)
    assert found.boot_t0sz == t0sz
    assert config.image.hyp >> 39 == slot


@pytest.mark.parametrize(
    ("release", "base", "name"),
    [
        ("3.18", 0x80000000, "separate"),
        ("4.1", 0x4000000000, "separate"),
        ("4.1", 0x8000000000, "merged-root"),
        ("4.7", 0x80000000, "separate"),
        ("4.8", 0x80000000, "single-split"),
        ("5.9", 0x8000000000, "merged-root"),
        ("5.10", 0x80000000, "wide-hyp"),
        ("6.8", 0x8000000000, "wide-hyp"),
        ("6.9", 0x80000000, "always-48"),
    ],
)
def test_what_a_release_runs_with(release: str, base: int, name: str) -> None:
    config = kernel(release, "4K", 39, base)
    assert shipped(config) == name
    assert STRATEGIES[name].ships_in(config.release)
    assert plan(name, config, [(base, GIB)]).applicable


def test_before_kvm_there_is_what_it_began_with() -> None:
    assert shipped(kernel("3.10", "4K", 39, 0x80000000)) == "separate"


def test_an_image_that_the_id_map_does_not_reach() -> None:
    config = configure("6.12", "64K", 52, 1 << 48, pa_bits=52, va52=True)
    found = plan("always-48", config, [(1 << 48, GIB)])
    assert found.why_not.startswith("the ID map cannot reach the image: 0x10000007f0000 is beyond")


@pytest.mark.parametrize(
    ("release", "name"), [("4.16", "single-split"), ("5.9", "single-split"), ("5.15", "wide-hyp")]
)
def test_a_wider_root_for_52_bit_addresses(release: str, name: str) -> None:
    """64K pages and 48 bits with RAM above 2^48: the same levels, 128 entries (fa2a8445b1d3)."""
    base = 1 << 48
    config = configure(release, "64K", 48, base + 0x80000, pa_bits=52)
    memory = [(base, 4 * GIB)]
    assert shipped(config) == name
    found = plan(name, config, memory)
    assert found.applicable, found.why_not
    assert (found.boot_t0sz, found.run_t0sz) == (15, 15)
    assert "FEAT_LVA" in found.needs
    done = realise(found, Arena.at(base + (1 << 26), config.granule))
    first, last = regimes(done)
    for regime, va in ((first, config.image.hyp), (last, found.runtime)):
        seen = translate(done.tables[0].memory(), regime, va, EXECUTE)
        assert isinstance(seen, Mapping)
        assert seen.pa == config.image.hyp
    assert "no extra level" in plan("merged-root", config, memory).why_not


@pytest.mark.parametrize("name", ["merged-root", "shared-idmap", "dedicated-root"])
def test_a_slot_of_zero_is_refused(name: str) -> None:
    config = configure(
        "5.9", "4K", 39, 0x7FFFC80000, image_end=0x8000400000,
        idmap_text=0x8000001000, hyp_text=0x7FFFD00000,
    )  # fmt: skip
    found = plan(name, config, [(0x7F00000000, 16 * GIB)])
    assert "its slot would be 0, which the HYP tables have" in found.why_not
    assert shipped(config) == "merged-root"


def test_under_vhe_nothing_else_is_planned() -> None:
    config = kernel("6.1", "4K", 48, 0x8000000000, vhe=True)
    assert shipped(config) == "vhe"
    for found in plans(config, SEATTLE):
        wanted = "" if found.strategy.name == "vhe" else "the kernel runs at EL2"
        assert found.why_not == wanted


@pytest.mark.parametrize(("release", "ps"), [("4.4", 2), ("4.5", 5)])
def test_the_output_size_was_40_bits(release: str, ps: int) -> None:
    config = configure(release, "4K", 39, 0x8000080000)
    done = realise(plan("merged-root", config, SEATTLE), Arena.at(0x8002000000, config.granule))
    for tcr in (done.values["tcr"], done.values["run_tcr"], done.tables[0].registers["TCR_EL2"]):
        assert tcr >> 16 & 7 == ps


def test_an_address_beyond_the_output_size() -> None:
    base = 0x10000000000
    config = configure("4.4", "4K", 39, base + 0x80000)
    found = plan("merged-root", config, [(base, 4 * GIB)])
    assert "TCR_EL2.PS says 40 bits in Linux 4.4" in found.why_not
    done = realise(found, Arena.at(base + (1 << 26), config.granule))
    assert done.values["tcr"] >> 16 & 7 == 2
    regime, _ = regimes(done)
    fault = translate(done.tables[0].memory(), regime, config.image.hyp, EXECUTE)
    assert not isinstance(fault, Mapping)
    assert "ddress size" in str(fault)


def test_a_52_bit_kernel_on_a_48_bit_cpu_before_5_12() -> None:
    config = configure("5.11", "64K", 52, (1 << 48) + 0x80000, pa_bits=52)
    found = plan("wide-hyp", config, [(1 << 48, 4 * GIB)])
    assert "on a CPU without 52-bit VAs: below the minimum of 16" in found.why_not


def test_the_narrow_tables_do_not_have_the_code() -> None:
    done = made("seattle 4K/39", "mmu-off-narrow")
    _, last = regimes(done)
    fault = translate(done.tables[0].memory(), last, done.entry, EXECUTE)
    assert not isinstance(fault, Mapping)
