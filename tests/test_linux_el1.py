"""The EL1 sequences run on tables of real boards, each fetch translated as the registers say."""

import pytest

from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.regime import EL1, regime_of
from ttbr.build import Arena, Tables, features_of_params
from ttbr.errors import UnsupportedError
from ttbr.linux.config import KernelConfig, configure
from ttbr.linux.el1 import El1, el1_tables
from ttbr.linux.sequences import Sequence, sequence
from ttbr.switch.assembly import assemble
from ttbr.switch.interpreter import run
from ttbr.switch.program import End, Isb, Layout, Msr, Trace
from ttbr.walk import EXECUTE, READ, Mapping, translate

GIB = 1 << 30


def kernel(release: str, base: int, page: str = "4K", bits: int = 39) -> KernelConfig:
    return configure(
        release, page, bits, base + 0x200000, image_end=base + 0x800000, idmap_text=base + 0x400000
    )


def tables(config: KernelConfig) -> El1:
    base = config.image.start & -GIB
    arena = Arena.at(config.image.end + (16 << 20), config.granule)
    return el1_tables(config, [(base, 4 * GIB)], arena)


def execute(el1: El1, routine: Sequence, before: Tables, after: Tables) -> tuple[Trace, list[int]]:
    """The trace, and the addresses of fetches that do not reach the code under TTBR and TCR."""
    entry = el1.config.image.text
    code = assemble(routine.text, entry)
    state = el1.registers(before) | {"HCR_EL2": 1 << 31}
    if not routine.mmu:
        state["SCTLR_EL1"] &= ~1
    values = el1.values(routine, after)
    inputs = {x: values[name] for x, name in routine.inputs.items()}
    start = entry + (0 if routine.identity else el1.kimage_offset)
    layout = Layout(start, ((code, 0), (code, el1.kimage_offset)))
    trace = run(layout, inputs | state, 1)
    lost, pending = [], dict[str, int]()
    features = features_of_params(el1.kernel.params)
    for step in trace.steps:
        where: int | None = step.pc
        if state["SCTLR_EL1"] & 1:
            found = translate(
                el1.kernel.memory(), regime_of(state, EL1, features), step.pc, EXECUTE
            )
            where = found.pa if isinstance(found, Mapping) else None
        if where not in code.instructions:
            lost.append(step.pc)
        for event in step.events:
            if isinstance(event, Msr) and event.register in state:
                assert event.value is not None
                pending[event.register] = event.value
            elif isinstance(event, Isb):
                state |= pending
                pending = {}
    assert isinstance(trace.end, End)
    return trace, lost


# routine, release, what is at TTBR0 before and after
RUNS = [
    ("enable", "4.1", "idmap", "idmap"),
    ("enable", "6.1", "idmap", "idmap"),
    ("uninstall-idmap", "4.1", "idmap", "reserved"),
    ("uninstall-idmap", "4.4", "idmap", "reserved"),
    ("uninstall-idmap", "4.6", "idmap", "process"),
    ("uninstall-idmap", "6.1", "idmap", "process"),
    ("install-idmap", "4.6", "process", "idmap"),
    ("install-idmap", "6.1", "process", "idmap"),
    ("install-ttbr0", "5.12", "process", "copy"),
    ("replace-ttbr1", "4.6", "idmap", "idmap"),
    ("replace-ttbr1", "6.12", "idmap", "idmap"),
    ("replace-ttbr1-by-zero", "5.15", "copy", "copy"),
    ("resume", "4.4", "idmap", "idmap"),
    ("resume", "6.1", "idmap", "idmap"),
    ("kexec", "5.4", "idmap", "idmap"),
    ("lpa2-remap", "6.12", "idmap", "idmap"),
]


@pytest.mark.parametrize("base", [0x8000000000, 0x80000000])
@pytest.mark.parametrize(("name", "release", "before", "after"), RUNS)
def test_every_fetch_reaches_the_code(
    name: str, release: str, before: str, after: str, base: int
) -> None:
    el1 = tables(kernel(release, base))
    routine = sequence(name, el1.config.release)
    trace, lost = execute(el1, routine, getattr(el1, before), getattr(el1, after))
    assert lost == []
    assert len(trace.steps) == len(routine.lines)
    wanted = el1.registers(getattr(el1, after))
    last = {e.register: e.value for step in trace.steps for e in step.events if isinstance(e, Msr)}
    if "TTBR0_EL1" in last:
        assert last["TTBR0_EL1"] == wanted["TTBR0_EL1"] or after == "reserved"
    if "TCR_EL1" in last:
        assert last["TCR_EL1"] == wanted["TCR_EL1"]


@pytest.mark.parametrize(("base", "faults"), [(0x8000000000, True), (0x80000000, False)])
def test_resume_before_4_4_loses_an_extended_id_map(base: int, faults: bool) -> None:
    """The saved TCR has T0SZ 25: the ID map of T0SZ 24 is out of reach once the MMU is on."""
    el1 = tables(kernel("4.3", base))
    _, lost = execute(el1, sequence("resume", el1.config.release), el1.idmap, el1.idmap)
    assert bool(lost) is faults


@pytest.mark.parametrize(("base", "faults"), [(0x8000000000, True), (0x80000000, False)])
def test_before_4_1_the_id_map_wraps(base: int, faults: bool) -> None:
    """The entry is at the index that the image's address has in a 39-bit table."""
    el1 = tables(kernel("4.0", base))
    trace, lost = execute(el1, sequence("enable", el1.config.release), el1.idmap, el1.idmap)
    behind = next(
        number + 1
        for number, step in enumerate(trace.steps)
        if any(isinstance(e, Msr) and e.register == "SCTLR_EL1" for e in step.events)
    )
    # From the ISB behind SCTLR_EL1 on, as long as the code is where it stood with the MMU off.
    assert lost == ([step.pc for step in trace.steps[behind + 1 :]] if faults else [])
    features = features_of_params(el1.kernel.params)
    regime = regime_of(el1.registers(el1.idmap), EL1, features)
    found = translate(el1.kernel.memory(), regime, el1.config.image.text % (1 << 39), EXECUTE)
    assert isinstance(found, Mapping)
    assert found.pa == el1.config.image.text


def test_an_id_map_with_a_level_too_few_maps_nothing() -> None:
    el1 = tables(kernel("5.4", 1 << 47, "16K", 36))
    features = features_of_params(el1.kernel.params)
    regime = regime_of(el1.registers(el1.idmap), EL1, features)
    found = translate(el1.kernel.memory(), regime, el1.config.image.text, EXECUTE)
    assert isinstance(found, Fault)
    assert (found.kind, found.level) == (FaultKind.TRANSLATION, 0)
    with pytest.raises(UnsupportedError, match="not modelled: the ID map cannot reach the image"):
        tables(kernel("6.1", 1 << 47, "16K", 36))


@pytest.mark.parametrize(
    ("release", "page", "bits", "base"),
    [
        ("4.4", "4K", 39, 0x8000000000),
        ("5.4", "64K", 42, 0x40000000000),
        ("6.1", "16K", 36, 0x1000000000),
        ("6.12", "4K", 48, 0x80000000),
    ],
)
def test_roots(release: str, page: str, bits: int, base: int) -> None:
    config = kernel(release, base, page, bits)
    el1 = tables(config)
    features = features_of_params(el1.kernel.params)
    memory, registers = el1.kernel.memory(), el1.registers(el1.idmap)
    regime = regime_of(registers, EL1, features)
    kernel_va = config.image.text + el1.kimage_offset
    for va, pa in ((config.image.text, config.image.text), (kernel_va, config.image.text)):
        found = translate(memory, regime, va, EXECUTE)
        assert isinstance(found, Mapping), hex(va)
        assert found.pa == pa
    assert list(el1.reserved.pages()) != []
    reserved = regime_of(el1.registers(el1.reserved), EL1, features)
    assert not isinstance(translate(memory, reserved, config.image.text, READ), Mapping)
