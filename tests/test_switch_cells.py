"""A few addresses stand for all: cells against every page judged by itself."""

import random
from dataclasses import replace

import pytest

from switch_catalogue import IDMAP, KERNEL, RW, Kernel, flush
from switch_tables import CONT, NC, Trace, block, page
from ttbr.errors import UnsupportedError
from ttbr.switch.cells import cells
from ttbr.switch.problem import Intent, Options, Problem
from ttbr.switch.prove import prove
from ttbr.switch.timeline import timeline

AREA = KERNEL + (8 << 30)
PAGES = 64


def mixed(rng: random.Random) -> Problem:
    """Two trees that differ here and there over 64 pages, a switch between them, stores, TLBIs."""
    k = Kernel()
    new = k.kernel_root()
    for i in range(PAGES):
        va, pa = AREA + i * 4096, 0x9_0000_0000 + i * 4096
        for root in (k.root, new):
            odd = rng.random()
            if odd < 0.06:
                continue
            index = NC if odd < 0.1 else 0
            extra = CONT if odd > 0.97 and rng.random() < 0.5 else 0
            k.map(root, va, pa + (0x10_0000 if 0.1 < odd < 0.14 else 0), index=index, extra=extra)
    idmap = k.arena.table()
    k.map(idmap, IDMAP, IDMAP)
    t = Trace(IDMAP, el=1).msr("TTBR1_EL1", k.zero if rng.random() < 0.5 else new).isb()
    if rng.random() < 0.7:
        flush(t)
    t.msr("TTBR1_EL1", new).isb()
    for _ in range(rng.randrange(3)):
        i = rng.randrange(PAGES)
        at = k.arena.location(new, AREA - KERNEL + i * 4096, 3, 39)
        t.store(KERNEL + at, 0).dsb("ISH").tlbi("VAE1IS", AREA + i * 4096).dsb("ISH")
        if rng.random() < 0.5:
            t.store(KERNEL + at, page(0x9_0000_0000 + i * 4096)).dsb("ISH").isb()
    problem = k.problem(t, ttbr0=idmap)
    keep = tuple(i for i in problem.intent if i.va == KERNEL + k.arena.base)
    area = Intent(AREA, PAGES * 4096, 0x9_0000_0000, permissions=RW, when="end")
    return replace(problem, intent=(Intent(IDMAP, 4096, IDMAP), area, *keep))


@pytest.mark.parametrize("seed", range(12))
def test_cells_find_what_all_pages_find(seed: int) -> None:
    problem = mixed(random.Random(seed))
    *rest, area, tables = problem.intent
    single = [
        Intent(area.va + i * 4096, 4096, 0x9_0000_0000 + i * 4096, permissions=RW, when="access")
        for i in range(PAGES)
    ]
    loads = Trace(problem.steps[-1].pc + 4, el=1)
    for intent in single:
        loads.ldr(intent.va)
    every = replace(problem, intent=(*rest, *single, tables), steps=(*problem.steps, *loads.done))
    by_cells = prove(problem)
    by_pages = prove(every)
    assert set(by_cells.kinds) == set(by_pages.kinds)
    assert len(by_cells.slices) <= len(by_pages.slices)


def test_a_uniform_range_is_one_cell() -> None:
    k = Kernel()
    for i in range(PAGES):
        k.map(k.root, AREA + i * 4096, 0x9_0000_0000 + i * 4096)
    area = Intent(AREA, PAGES * 4096, 0x9_0000_0000, permissions=RW, when="end")
    line = timeline(k.problem(Trace(KERNEL + 0x1000_0000, el=1).nop(), area))
    assert list(cells(line, "EL1&0", [area])) == [(AREA, area)]


def test_a_hole_at_the_end_of_a_range_is_found() -> None:
    k = Kernel()
    for i in range(PAGES - 1):
        k.map(k.root, AREA + i * 4096, 0x9_0000_0000 + i * 4096)
    area = Intent(AREA, PAGES * 4096, 0x9_0000_0000, permissions=RW, when="end")
    result = prove(k.problem(Trace(KERNEL + 0x1000_0000, el=1).nop(), area))
    assert result.kinds == ("FAULT",)
    assert {f.access.va for f in result.findings} == {AREA + (PAGES - 1) * 4096}


def test_always_is_judged_at_every_step() -> None:
    """Between break and make the range is not mapped; at the end it is again."""
    k = Kernel()
    at = k.map(k.root, AREA, 0x9_0000_0000)
    t = Trace(KERNEL + 0x1000_0000, el=1).store(KERNEL + at, 0).dsb("ISH").tlbi("VAE1IS", AREA)
    t.dsb("ISH").isb().store(KERNEL + at, page(0x9_0000_0000)).dsb("ISH").isb().nop()
    kinds = {}
    for when in ("end", "always"):
        area = Intent(AREA, 4096, 0x9_0000_0000, permissions=RW, when=when)
        kinds[when] = prove(k.problem(t, area)).kinds
    assert kinds == {"end": (), "always": ("FAULT",)}


def test_unmapped_ranges() -> None:
    k = Kernel()
    k.map(k.root, AREA + 0x1000, 0x9_0000_0000)
    t = Trace(KERNEL + 0x1000_0000, el=1).nop()
    hole = Intent(AREA, 0x1000, None, permissions=0, when="end")
    assert prove(k.problem(t, hole)).safe
    both = replace(hole, size=0x2000)
    assert prove(k.problem(t, both)).kinds == ("WRONG-PA",)


def test_a_granule_change_limits_the_range() -> None:
    k = Kernel()
    tcr = k.problem(Trace(0, el=1).nop()).registers["TCR_EL1"]
    t = Trace(KERNEL + 0x1000_0000, el=1).msr("TCR_EL1", tcr ^ 1 << 30).isb()
    big = Intent(AREA, 1 << 30, AREA - KERNEL, when="end")
    with pytest.raises(UnsupportedError, match="pages to cover while the granule changes"):
        prove(k.problem(t, big))


def test_blocks_merge_over_tables() -> None:
    k = Kernel()
    for i in range(1024):
        at = k.arena.location(k.root, (8 << 30) + (i << 21), 2, 39)
        k.arena.put(at, block((8 << 30) + (i << 21)))
    area = Intent(AREA, 2 << 30, 8 << 30, permissions=RW, when="end")
    result = prove(k.problem(Trace(KERNEL + 0x1000_0000, el=1).nop(), area))
    assert result.safe
    assert len(result.slices) <= 3


def test_options_do_not_change_cells() -> None:
    problem = mixed(random.Random(3))
    for options in (Options(ntlbpa=True), Options(bbm="2na"), Options(ets2=True)):
        changed = replace(problem, options=options)
        assert len(prove(changed).slices) == len(prove(problem).slices)
