"""The proof's speed: the catalogue, tracked pages, and a whole address space."""

import math
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from goal import Goal, best

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from switch_catalogue import KERNEL, M2, ROWS, RW, TEXT, TEXT_PA, Kernel, flush
from switch_tables import Trace, page
from ttbr.switch.problem import Intent, Problem
from ttbr.switch.prove import prove

CATALOGUE_MS, TRACKED_S, EXPONENT, SPACE_S, FILLED_S = 30.0, 1.0, 1.2, 2.0, 5.0
AREA = KERNEL + (16 << 30)


def catalogue() -> Iterator[Goal]:
    times = {}
    for name, row in ROWS.items():
        problem = row.make()
        times[name] = 1e3 * best(partial(prove, problem), 3)
    worst = max(times, key=times.__getitem__)
    yield Goal(f"proof: slowest catalogue row ({worst})", times[worst], CATALOGUE_MS, "ms")
    mean = statistics.mean(times.values())
    yield Goal(f"proof: mean of {len(times)} catalogue rows", mean, CATALOGUE_MS, "ms")


def replacement(pages: int, *, loads: bool) -> Problem:
    """cpu_replace_ttbr1 in 23 instructions, with *pages* scattered kernel pages to look after.

    With *loads* the trace also reads each of them at the end, so that each is tracked by itself.
    """
    k = Kernel()
    places = random.Random(1).sample(range(1 << 15), pages)
    new = k.kernel_root(2)
    outputs = {AREA + place * 8192: 0x8_0000_0000 + i * 8192 for i, place in enumerate(places)}
    for va, pa in outputs.items():
        for root in (k.root, new):
            k.map(root, va, pa)
    idmap = k.arena.table()
    low = 0x8020_1000
    k.arena.map(idmap, low, low, 48)
    t = Trace(low, el=1).nop()
    t.msr("TTBR1_EL1", k.zero).isb().tlbi("VMALLE1").dsb("NSH").isb()
    t.msr("TTBR1_EL1", new).isb().br(TEXT).msr("TTBR0_EL1", k.zero).isb()
    flush(t).msr("TTBR0_EL1", idmap).isb()
    flush(t).msr("TTBR0_EL1", k.zero).isb()
    assert len(t.steps) == 23
    if loads:
        for va in outputs:
            t.ldr(va)
    intent = [Intent(va, 4096, pa, permissions=RW, when="end") for va, pa in outputs.items()]
    problem = k.problem(t, Intent(low, 4096, low), *intent, ttbr0=idmap, t0sz=16)
    text = 1 + len(t.steps) >> 10
    wide = Intent(TEXT, 4096 * (1 + text), 0x8020_0000)
    rest = tuple(i for i in problem.intent if i.va != TEXT)
    return replace(problem, intent=(wide, *rest))


def tracked() -> Iterator[Goal]:
    for loads, label in ((True, "each by itself"), (False, "as cells")):
        times = {}
        for pages in (64, 256, 1024):
            problem = replacement(pages, loads=loads)
            times[pages] = best(partial(prove, problem), 3)
        yield Goal(f"proof: 23 instructions, 256 pages, {label}", times[256], TRACKED_S, "s")
        growth = math.log(times[1024] / times[64], 16)
        yield Goal(f"proof: exponent of growth to 1,024 pages, {label}", growth, EXPONENT, "")


def space() -> Iterator[Goal]:
    """A linear map of 64 GB in blocks and 20,000 scattered pages, old and new table alike."""
    k = Kernel()
    new = k.kernel_root(2)
    linear, window = KERNEL + (64 << 30), KERNEL + (200 << 30)
    for root in (k.root, new):
        for offset in range(0, 64 << 30, M2):
            k.map(root, linear + offset, (64 << 30) + offset, level=2)
    places = random.Random(2).sample(range(40_000), 20_000)
    for i, place in enumerate(places):
        for root in (k.root, new):
            k.map(root, window + place * 4096, (1 << 38) + i * 4096)
    intent = [Intent(linear, 64 << 30, 64 << 30, permissions=RW, when="end")]
    intent += [
        Intent(window + place * 4096, 4096, (1 << 38) + i * 4096, permissions=RW, when="end")
        for i, place in enumerate(places)
    ]
    idmap = k.arena.table()
    k.map(idmap, 0x8020_1000, 0x8020_1000)
    t = Trace(0x8020_1000, el=1)
    flush(t.msr("TTBR1_EL1", k.zero).isb()).msr("TTBR1_EL1", new).isb()
    problem = k.problem(t, Intent(0x8020_1000, 4096, 0x8020_1000), *intent, ttbr0=idmap)
    took = best(partial(prove, problem), 3)
    yield Goal("proof: 64 GB of blocks and 20,000 scattered pages", took, SPACE_S, "s")


def filled() -> Iterator[Goal]:
    """A whole table filled entry by entry while it is live, then read."""
    k = Kernel()
    base = AREA & -M2
    at = k.map(k.root, base, 1 << 36)
    k.arena.put(at, 0)
    t = Trace(TEXT, el=1)
    for i in range(512):
        t.store(KERNEL + at + 8 * i, page((1 << 36) + 4096 * i))
    t.dsb("ISHST").isb()
    code = Intent(TEXT, 4096, TEXT_PA)
    intent = Intent(base, M2, 1 << 36, permissions=RW, when="end")
    problem = k.problem(t, intent)
    rest = tuple(i for i in problem.intent if i.va != TEXT)
    problem = replace(problem, intent=(code, *rest))
    took = best(partial(prove, problem), 1)
    yield Goal("proof: 512 stores that fill a live table", took, FILLED_S, "s")


def goals() -> Iterator[Goal]:
    yield from catalogue()
    yield from tracked()
    yield from filled()
    yield from space()
