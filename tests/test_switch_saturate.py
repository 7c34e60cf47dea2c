"""Walks of the machine against `ttbr.walk`, and what they leave in the TLB."""

import random

import pytest

from switch_tables import MAIR, Arena, Trace
from ttbr.arch.attributes import PR, PW, PX, UR, UW, UX
from ttbr.arch.features import Features
from ttbr.arch.geometry import GRANULES, level_count
from ttbr.arch.regime import EL1, EL2, EL20, regime_of
from ttbr.arch.registers import REGISTERS
from ttbr.switch.judge import Hit, Slice
from ttbr.switch.problem import Intent, Options, Problem
from ttbr.switch.saturate import Stop
from ttbr.switch.timeline import timeline
from ttbr.switch.tlb import Leaf, Part
from ttbr.walk import Mapping, translate

ALL = PR | PW | PX | UR | UW | UX


def random_tree(rng: random.Random, arena: Arena, level: int) -> int:
    """A table with a few random entries, deeper ones below; its address."""
    table = arena.table()
    for index in [*rng.sample(range(arena.granule.entries), 6), 0, 1]:
        arena.put(table + 8 * index, random_entry(rng, arena, level))
    return table


def random_entry(rng: random.Random, arena: Arena, level: int) -> int:
    kind = rng.randrange(8)
    bits = rng.getrandbits(64)
    if kind == 0:
        return bits & ~1
    if level < 3 and kind < 5:
        return random_tree(rng, arena, level + 1) | 3 | bits & 0x7800_0000_0000_0000
    noise = bits & 0x0078_FFFF_FFFF_FBFC & ~(1 << 52) | (0x400 if kind < 7 else 0)
    return noise & ~(0xFFFF << 36 if kind < 7 else 0) | (3 if level == 3 else 1)


def registers_for(rng: random.Random, name: str, granule: str) -> dict[str, int]:
    """Random controls of one regime, one root for each half, in 8 bits or so of range."""
    g = GRANULES[granule]
    ds = rng.random() < 0.3
    tsz = rng.randrange(16, 40)
    fields = {"TG0": g.tg0, "T0SZ": tsz, "DS": int(ds), "HA": int(rng.random() < 0.2)}
    if name == EL2:
        fields |= {"PS": rng.choice([2, 5, 6]), "TBI": rng.randrange(2), "HPD": rng.randrange(2)}
        tcr = REGISTERS["TCR_EL2"].encode(SH0=rng.choice([0, 2, 3]), **fields)
        names = {"TCR_EL2": tcr, "MAIR_EL2": rng.getrandbits(64), "SCTLR_EL2": 1}
        return names | {"TTBR0_EL2": 0}
    el = 1 if name == EL1 else 2
    fields |= {"TG1": g.tg1, "T1SZ": tsz, "IPS": rng.choice([2, 5, 6]), "AS": 1}
    fields |= {"EPD1": int(rng.random() < 0.2), "TBI1": rng.randrange(2), "HPD1": rng.randrange(2)}
    layout = "TCR_EL1" if el == 1 else "TCR_EL2_E2H"
    wxn = rng.randrange(2) << 19
    return {
        f"TCR_EL{el}": REGISTERS[layout].encode(**fields),
        f"MAIR_EL{el}": rng.getrandbits(64),
        f"SCTLR_EL{el}": 1 | wxn,
        f"TTBR0_EL{el}": 5 << 48,
        f"TTBR1_EL{el}": 6 << 48,
        "HCR_EL2": 1 << 31 if el == 1 else 1 << 34,
    }


def one_point(registers: dict[str, int], arena: Arena, name: str, va: int) -> Slice:
    """The TLB of one address with the registers as they are."""
    el = 1 if name == EL1 else 2
    hcr = registers.get("HCR_EL2", 0)
    step = Trace(0x1000, el, hcr).nop().done
    intent = (Intent(0x1000, 0x1000, 0x1000),)
    features = Features(pa_bits=48) if arena.granule.shift == 16 else Features()
    options = Options(features=features)
    problem = Problem(arena.memory(), arena.extents, registers, step, intent, options)
    piece = Slice(timeline(problem), name, va)
    piece.run()
    return piece


@pytest.mark.parametrize("name", [EL1, EL2, EL20])
@pytest.mark.parametrize("granule", ["4K", "16K", "64K"])
def test_agrees_with_the_walk(name: str, granule: str) -> None:
    """With one set of register values the outcomes are exactly what `translate` says."""
    rng = random.Random(f"{name} {granule}")
    mapped = 0
    for _ in range(60):
        registers = registers_for(rng, name, granule)
        arena = Arena(granule=granule)
        tcr = registers["TCR_EL1" if name == EL1 else "TCR_EL2"]
        bits = 64 - (tcr & 63)
        level = 4 - level_count(arena.granule, bits)
        root = random_tree(rng, arena, level)
        for ttbr in [r for r in registers if r.startswith("TTBR")]:
            registers[ttbr] |= root
        features = Features(pa_bits=48) if granule == "64K" else Features()
        regime = regime_of(registers, name, features)
        for va in addresses(rng, arena, root, level, bits, name):
            piece = one_point(registers, arena, name, va)
            expected = translate(arena.memory(), regime, va)
            outcomes = set(piece.outcomes(0))
            hits = {o for o in outcomes if isinstance(o, Hit)}
            stops = {o for o in outcomes if isinstance(o, Stop)}
            if isinstance(expected, Mapping):
                mapped += 1
                assert {(h.output, h.attr) for h in hits} == {(expected.pa, expected.attr)}
                assert {h.permissions for h in hits} == {expected.permissions}
                assert not stops
                (leaf,) = (e for e in piece.worlds[0] if isinstance(e, Leaf))
                assert leaf.size == expected.size
                assert leaf.level == expected.level
            else:
                assert not hits
                assert {s.level for s in stops} == {expected.level}
    assert mapped > 60


def addresses(
    rng: random.Random, arena: Arena, root: int, level: int, bits: int, name: str
) -> list[int]:
    """Addresses that follow entries of the tree, some beyond the range, some in the upper half."""
    found = []
    g = arena.granule
    for _ in range(6):
        va, table, at = 0, root, level
        width = bits - g.level_shift(level)
        while True:
            used = [i for i in range(min(1 << width, g.entries)) if arena.get(table + 8 * i)]
            index = rng.choice(used)
            va |= index << g.level_shift(at)
            word = arena.get(table + 8 * index)
            low = word & ((1 << 48) - 1) & -g.size
            if at == 3 or word & 3 != 3 or low not in arena.pages:
                break
            table, at, width = low, at + 1, g.stride
        va |= rng.getrandbits(g.shift) & ~0xFFF
        if rng.random() < 0.1:
            va ^= 1 << bits
        if name != EL2 and rng.random() < 0.5:
            va |= (1 << 64) - (1 << bits)
        found.append(va)
    return found


def small_map() -> tuple[Arena, int]:
    arena = Arena()
    root = arena.table()
    arena.map(root, 0x4000_1000, 0x8000_1000, 39)
    return arena, root


def hyp(root: int, tcr: int = 25) -> dict[str, int]:
    tcr_el2 = REGISTERS["TCR_EL2"].encode(T0SZ=tcr, PS=2)
    return {"TTBR0_EL2": root, "TCR_EL2": tcr_el2, "SCTLR_EL2": 1, "MAIR_EL2": MAIR}


def test_one_entry_for_each_descriptor() -> None:
    arena, root = small_map()
    piece = one_point(hyp(root), arena, EL2, 0x4000_1000)
    parts = sorted((e for e in piece.worlds[0] if isinstance(e, Part)), key=lambda p: p.level)
    assert [(p.level, p.va, p.size) for p in parts] == [
        (2, 0x4000_0000, 1 << 30),
        (3, 0x4000_0000, 1 << 21),
    ]
    (leaf,) = (e for e in piece.worlds[0] if isinstance(e, Leaf))
    assert leaf.translate(0x4000_1000) == 0x8000_1000


def test_a_fault_leaves_what_led_to_it() -> None:
    """R_XCLRD: an invalid descriptor is not cached, the tables above it are."""
    arena, root = small_map()
    piece = one_point(hyp(root), arena, EL2, 0x4000_5000)
    assert {type(e) for e in piece.worlds[0]} == {Part}
    assert any(isinstance(o, Stop) and o.level == 3 for o in piece.outcomes(0))


def test_contiguous_members_cover_each_other() -> None:
    arena, root = small_map()
    for i in range(16):
        extra = 1 << 52 if i == 3 else 0
        arena.map(root, 0x4001_0000 + i * 4096, 0x8001_0000 + i * 4096, 39, extra=extra)
    piece = one_point(hyp(root), arena, EL2, 0x4001_0000)
    leaves = [e for e in piece.worlds[0] if isinstance(e, Leaf)]
    assert {(e.va, e.span) for e in leaves} == {(0x4001_0000, 4096), (0x4001_3000, 65536)}
    assert {e.translate(0x4001_0000) for e in leaves} == {0x8001_0000}


def test_small_ranges_need_ttst() -> None:
    arena = Arena()
    root = arena.table()
    arena.put(root + 8, 0x8000_1703)
    piece = one_point(hyp(root, 47), arena, EL2, 0x1000)
    assert [o.output for o in piece.outcomes(0) if isinstance(o, Hit)] == [0x8000_1000]
