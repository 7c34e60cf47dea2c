"""Built tables are asked about by AT on both emulators, at the edges of leaves and in the gaps."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest

from build_maps import random_params, random_regions
from emulate_tables import needs_qemu, needs_unicorn
from test_linux_dualroot import CODE, FORMS, PAGES
from ttbr.arch.geometry import GRANULES, PA, VA, granule
from ttbr.arch.regime import EL1, EL2, EL3, EL20
from ttbr.boards import load
from ttbr.build import Arena, Attributes, Tables, build, regime_name, registers_of, table_params
from ttbr.emulate.differential import Report
from ttbr.emulate.probe import edges, probe_registers, probe_tables
from ttbr.emulate.qemu_at import FREE_RAM, RAM, QemuAt
from ttbr.emulate.sides import QemuSide, Side, UnicornSide
from ttbr.emulate.unicorn_at import HARNESS_SIZE, UnicornAt
from ttbr.errors import InvalidError
from ttbr.linux.config import configure
from ttbr.linux.dualroot import dual_root
from ttbr.linux.el1 import el1_tables
from ttbr.linux.realise import realise
from ttbr.linux.strategies import plans
from ttbr.regions import Region
from ttbr.switch.program import Msr
from ttbr.switch.scenario import read_scenario

SCENARIOS = Path(__file__).parent.parent / "examples" / "scenarios"
EL3_BASE = 0x4200_0000
BASE = 0x4100_0000  # RAM of both machines
ROOM = 40 << 20
SEED = 20261122
FEW = 512  # addresses of one map, so that there are many maps

KERNELS = (
    ("seattle", "4.1", "4K", 39, 0x80_0008_0000),
    ("sbsa-ref", "5.15", "64K", 42, 0x100_0020_0000),
    ("apple-m1-max", "6.1", "16K", 36, 0x100_0020_0000),
    ("xgene1", "4.1", "4K", 39, 0x40_0008_0000),
    ("lx2160a", "6.12", "4K", 48, 0x8020_0000),
)


def random_tables(rng: Random) -> Iterator[Tables]:
    """Tables of random maps, in the regimes that AT S1 asks about."""
    while True:
        p = random_params(rng)
        regime = regime_name(p)
        if regime not in (EL1, EL2, EL20):
            continue
        try:
            tables = build(random_regions(rng, p, regime, most=24, pages=600), p, base=BASE)
        except InvalidError:
            continue
        if sum(map(len, tables.pages().values())) <= ROOM:
            yield tables


def planned_tables() -> Iterator[tuple[str, Tables]]:
    """The tables of every strategy and of EL1 on five boards, at a place that both machines
    have."""
    for board, release, page, bits, image in KERNELS:
        config = configure(release, page, bits, image)
        for found in plans(config, load(board)):
            if found.roots:
                made = realise(found, Arena.at(BASE, found.config.granule))
                for tables in made.tables:
                    yield f"{board} {found.strategy.name}", tables
        el1 = el1_tables(config, load(board), Arena.at(BASE, config.granule))
        for name in ("kernel", "idmap", "reserved", "process", "copy"):
            yield f"{board} EL1 {name}", getattr(el1, name)


def other_tables() -> Iterator[tuple[str, str, dict[str, int], dict[int, bytes]]]:
    """Tables by their registers: those that are valid under two values of T0SZ, and those of the
    examples' scenarios at the start and at the end."""
    for page, a, b, va, pa, idmap, form in FORMS:
        window = [
            Region(VA(at), PA(to), PAGES[page], CODE) for at, to in ((va, pa), (idmap, idmap))
        ]
        arena = Arena.at(BASE, page)
        dual = dual_root(granule(page), a, b, window[0], arena=arena, idmap=window[1:])
        pages = {at: bytes(data) for at, data in dual.tables.pages().items()}
        for p in (dual.narrow, dual.wide):
            yield f"{form.name} {page} {p.input_bits} bits", EL2, registers_of(p), pages
    for path in sorted(SCENARIOS.glob("*.toml")):
        problem = read_scenario(path).problem
        pages = {at: problem.memory.read(at, size) for at, size in problem.tables}
        events = [e for step in problem.steps for e in step.events if isinstance(e, Msr)]
        written = {e.register: e.value for e in events if e.value is not None}
        regime = EL2 if problem.steps[0].el == 2 else EL1
        for when, more in (("start", {}), ("end", written)):
            registers = {**problem.registers, **more}
            if registers[f"SCTLR_EL{regime[2]}"] & 1:
                yield f"{path.stem} {when}", regime, registers, pages


def el3_tables(rng: Random, first: int, size: int) -> Iterator[Tables]:
    """Random maps of EL3, in which the harness at *first*, which runs there, stands at VA = PA."""
    while True:
        p = random_params(rng)
        if regime_name(p) != EL3 or first + size > 1 << p.input_bits:
            continue
        room = -(-size // p.granule.size) * p.granule.size
        harness = Region(VA(first), PA(first), room, Attributes(access="rwx"), "harness")
        try:
            yield build([harness, *random_regions(rng, p, EL3, most=24)], p, base=EL3_BASE)
        except InvalidError:  # it overlaps
            continue


def probe_many(side: Side, random_maps: Iterable[Tables], probes: int) -> int:
    """Probe random tables until *probes* addresses were asked; how many were."""
    asked = explained = 0
    for tables in random_maps:
        # A control bit that this CPU lacks (FEAT_LPA2, FEAT_LVA) makes the tables another's.
        if not fits(side, tables) or tables.params.output_bits > side.target.features.pa_bits:
            continue
        report = probe_tables(side, tables, most=FEW)
        assert not report.differences, report.differences[0]
        asked += report.probes
        explained += report.explained
        if asked >= probes:
            break
    print(f"seed {SEED}: {asked} probes, {explained} by quirks, 0 unexplained")
    return asked


def fits(side: Side, tables: Tables) -> bool:
    """Whether the CPU has what the tables' registers ask for."""
    f, p = side.target.features, tables.params
    if p.form.wide and f.pa_bits < 52:
        return False
    if p.granule.name not in f.granules or (not f.lva and p.input_bits > 48):
        return False
    small = 64 - p.input_bits > 39 and not f.ttst
    return not small and tables.regime_name in (*side.target.regimes, EL3)


def check_plans(side: Side) -> None:
    probed = 0
    for name, tables in planned_tables():
        if fits(side, tables):
            report: Report = probe_tables(side, tables)
            assert report.probes >= 2 * len(edges(tables.memory(), tables.params)), name
            assert not report.differences, (name, report.differences[0])
            probed += 1
    assert probed >= 60


def check_others(side: Side) -> None:
    asked = 0
    for name, regime, registers, pages in other_tables():
        report = probe_registers(side, regime, registers, pages, FEW)
        assert not report.differences, (name, report.differences[0])
        assert report.probes or "52 bits" in name, name
        asked += report.probes
    assert asked > 5_000


def test_edges_are_in_and_beside_every_leaf() -> None:
    p = table_params(EL2, GRANULES["4K"], 39)
    regions = [Region(VA(0x1000), PA(0x8000_1000), 0x3000, Attributes())]
    tables = build(regions, p, base=BASE)
    half = {0, (1 << 39) - 1, 1 << 39}
    pages = {at - 1 for at in range(0x1000, 0x5000, 0x1000)} | set(range(0x1000, 0x5000, 0x1000))
    assert set(edges(tables.memory(), tables.params)) == half | pages


def test_edges_of_more_leaves_than_asked_for() -> None:
    p = table_params(EL2, GRANULES["4K"], 39)
    regions = [Region(VA(0x1000), PA(0x8000_1000), 0x8000, Attributes())]
    tables = build(regions, p, base=BASE)
    corners = {0xFFF, 0x1000, 0x1FFF, 0x2000, 0x7FFF, 0x8000, 0x8FFF, 0x9000}
    assert set(edges(tables.memory(), tables.params, 4)) - {0, (1 << 39) - 1, 1 << 39} == corners


@needs_unicorn
def test_every_strategy_on_unicorn() -> None:
    with UnicornAt() as cpu:
        check_plans(UnicornSide(cpu))


@needs_qemu
def test_every_strategy_on_qemu() -> None:
    with QemuAt() as machine:
        check_plans(QemuSide(machine))


@needs_unicorn
def test_every_scenario_and_dual_root_on_unicorn() -> None:
    with UnicornAt() as cpu:
        check_others(UnicornSide(cpu))


@needs_qemu
def test_every_scenario_and_dual_root_on_qemu() -> None:
    with QemuAt(ram=1 << 30) as machine:
        check_others(QemuSide(machine))


@needs_unicorn
@pytest.mark.slow
def test_half_a_million_probes_on_unicorn() -> None:
    with UnicornAt() as cpu:
        assert probe_many(UnicornSide(cpu), random_tables(Random(SEED)), 500_000) >= 500_000


@needs_qemu
@pytest.mark.slow
def test_half_a_million_probes_on_qemu() -> None:
    with QemuAt() as machine:
        assert probe_many(QemuSide(machine), random_tables(Random(SEED)), 500_000) >= 500_000


@needs_unicorn
@pytest.mark.slow
def test_random_maps_of_el3_on_unicorn() -> None:
    first = 0x100_0000
    with UnicornAt(harness=first) as cpu:
        maps = el3_tables(Random(SEED), first, HARNESS_SIZE)
        assert probe_many(UnicornSide(cpu), maps, 100_000) >= 100_000


@needs_qemu
@pytest.mark.slow
def test_random_maps_of_el3_on_qemu() -> None:
    with QemuAt() as machine:
        maps = el3_tables(Random(SEED), RAM, FREE_RAM - RAM)
        assert probe_many(QemuSide(machine), maps, 50_000) >= 50_000
