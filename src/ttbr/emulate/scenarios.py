"""Seeded random translation regimes with dense hostile tables, for the differential.

A scenario is a register file, one block of tables that mostly point at each other at every level,
and addresses to translate. The tables hold what software should never write: reserved types,
output addresses in no memory or beyond TCR.PS, set RES0 bits, every hierarchical limit, clear
access flags. The registers hold reserved granules, T0SZ out of range and unaligned roots.
A scenario is a function of (seed, number) and nothing else.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttbr.arch.features import PA_BITS, Features
from ttbr.arch.geometry import GRANULES, Granule
from ttbr.arch.regime import EL1, EL2, EL20
from ttbr.arch.registers import REGISTERS

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PROBES", "STAGE12", "Question", "Target", "scenario"]

PROBES = 256  # addresses in one scenario
TABLES = {12: 12, 14: 8, 16: 4}  # tables in the block, by the granule

HCR_VM, HCR_PTW, HCR_DC, HCR_TGE = 1 << 0, 1 << 2, 1 << 12, 1 << 27
HCR_RW, HCR_E2H, HCR_CD, HCR_FWB = 1 << 31, 1 << 34, 1 << 32, 1 << 46
STAGE12 = "stages 1 and 2"

# regime -> the AT operations that ask about it from EL3, and the ELs of its registers.
OPERATIONS = {
    EL1: ("S1E1R", "S1E1W", "S1E0R", "S1E0W", "S1E1RP", "S1E1WP"),
    STAGE12: ("S12E1R", "S12E1W", "S12E0R", "S12E0W", "S1E1R", "S1E0W"),
    EL2: ("S1E2R", "S1E2W"),
    EL20: ("S1E2R", "S1E2W", "S1E0R", "S1E0W", "S1E1R", "S1E1RP", "S1E1WP"),
}
MEMORY_TYPES = (0x00, 0x04, 0x08, 0x0C, 0x44, 0xFF, 0xBB, 0xEE, 0x77, 0x4F, 0xF4)


@dataclass(frozen=True, slots=True)
class Target:
    """What the generator must know of an emulated CPU.

    `bases` are the PAs where the block of tables may stand (2 MiB each). `no_level_minus1_leaf`
    keeps a walk that starts at level -1 free of block descriptors. `pan2` is FEAT_PAN2 (AT S1E1RP).
    """

    name: str
    features: Features
    regimes: tuple[str, ...]
    bases: tuple[int, ...]
    no_level_minus1_leaf: bool = False
    pan2: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """What AT `operation` of each of `addresses` gives under `registers`.

    `memory` is ``{PA: bytes}``, whole 4 KiB pages; `pan` is PSTATE.PAN; `name` says what it is.
    """

    name: str
    operation: str
    registers: dict[str, int]
    memory: dict[int, bytes]
    addresses: list[int]
    pan: bool = False

    def __str__(self) -> str:
        return f"{self.name}, AT {self.operation}"


@dataclass(slots=True)
class _Draft:
    """Random choices on the way to a `Scenario`: one granule and format for all its tables."""

    r: random.Random
    target: Target
    granule: Granule
    base: int
    ds: bool
    two_stages: bool
    ds_bit: bool = False
    pages_only: bool = False

    def chance(self, probability: float) -> bool:
        return self.r.random() < probability

    def flag(self, probability: float) -> int:
        return int(self.chance(probability))


def _size(d: _Draft, smallest: int, largest: int) -> int:
    """A T0SZ or T1SZ: mostly legal, with both ends often, sometimes anything."""
    if d.chance(0.06):
        return d.r.randrange(64)
    if d.chance(0.3):
        return d.r.choice((smallest, smallest + 1, largest - 1, largest))
    return d.r.randint(smallest, largest)


def _legal_sizes(d: _Draft, ds: bool) -> tuple[int, int]:
    f, large = d.target.features, d.granule.shift == 16
    smallest = 12 if ds or (large and f.lva) else 16
    return smallest, (47 if large else 48) if f.ttst else 39


def _physical_size(d: _Draft) -> int:
    """TCR.PS: mostly all that the CPU has or more, sometimes small, rarely the reserved 7."""
    if d.chance(0.03):
        return 7
    return d.r.choice((5, 6, 6, *PA_BITS)) if d.chance(0.6) else d.r.choice((5, 6))


def _granule_code(d: _Draft, upper: bool) -> int:
    """TG0 or TG1: mostly of the draft's granule; with DS=1 always, as QEMU takes others as 4K."""
    g = d.granule
    if not d.ds_bit:
        if d.chance(0.03):
            return 0 if upper else 3  # reserved
        if d.chance(0.1):
            g = GRANULES[d.r.choice(sorted(d.target.features.granules))]
    return g.tg1 if upper else g.tg0


def _root(d: _Draft) -> int:
    """A TTBR: a table of the block, its low bits sometimes set, an ASID, rarely no memory."""
    address = d.base + (d.r.randrange(TABLES[d.granule.shift]) << d.granule.shift)
    if d.chance(0.15):
        address += d.r.randrange(1 << d.granule.shift) & ~0x3F
    if d.chance(0.1):
        address |= d.r.randrange(64) & (0x3F if d.chance(0.2) else 0x01)
    if d.chance(0.02):
        address = _wild(d.r)
    return address & (1 << 48) - 1 | (d.r.randrange(1 << 16) << 48 if d.chance(0.3) else 0)


def _wild(r: random.Random) -> int:
    """A PA where no emulator has memory or a device: bits 47:41 are not all zero."""
    return r.randrange(1, 128) << 41 | r.randrange(1 << 41) & ~0xFFF


def _half_fields(d: _Draft, n: int) -> dict[str, int]:
    """The fields of one half of a TCR with two ranges."""
    f = d.target.features
    size = _size(d, *_legal_sizes(d, d.ds))
    return {
        f"T{n}SZ": max(size, 16) if d.two_stages and d.pages_only else size,
        f"TG{n}": _granule_code(d, n == 1),
        f"SH{n}": d.r.choice((0, 2, 3)),
        f"EPD{n}": d.flag(0.05),
        f"TBI{n}": d.flag(0.5),
        f"TBID{n}": d.flag(0.3),
        f"HPD{n}": d.flag(0.25),
        f"E0PD{n}": d.flag(0.15) if f.e0pd else 0,
    }


def _tcr(d: _Draft, two_ranges: bool) -> int:
    f = d.target.features
    fields = {"DS": int(d.ds_bit), "HA": d.flag(0.25) if f.hafdbs else 0}
    fields["HD"] = d.flag(0.5) if f.hafdbs > 1 else 0
    if two_ranges:
        fields |= _half_fields(d, 0) | _half_fields(d, 1)
        fields |= {"IPS": _physical_size(d), "A1": d.flag(0.5), "AS": d.flag(0.5)}
        return REGISTERS["TCR_EL1"].encode(**fields)
    half = _half_fields(d, 0)
    fields |= {name: half[name] for name in ("T0SZ", "TG0", "SH0")} | {"PS": _physical_size(d)}
    fields |= {"TBI": half["TBI0"], "TBID": half["TBID0"], "HPD": half["HPD0"]}
    return REGISTERS["TCR_EL2"].encode(**fields)


def _stage2_registers(d: _Draft) -> dict[str, int]:
    """VTCR_EL2 and VTTBR_EL2: the start level mostly fits T0SZ."""
    g, ds = d.granule, d.ds
    smallest, largest = _legal_sizes(d, ds)
    if d.chance(0.8):  # the tables of stage 1 are in range
        largest = max(smallest, min(largest, 64 - d.base.bit_length()))
    tsz = _size(d, smallest, largest)
    levels = {2: 0, 1: 1, 0: 2, 3: 3} if g.shift == 12 else {3: 0, 2: 1, 1: 2, 0: 3}
    bits = 64 - tsz
    fit = [level for level in range(-1, 4) if 1 <= bits - g.level_shift(level) <= g.stride + 4] or [
        0
    ]
    level = d.r.choice(fit)
    sl0, sl2 = levels.get(level, 0), int(level == -1)
    if d.chance(0.08):
        sl0 = d.r.randrange(4)
    fields = {"T0SZ": tsz, "SL0": sl0, "SL2": sl2 if ds else 0, "DS": int(ds)}
    fields |= {
        "TG0": _granule_code(d, False),
        "PS": _physical_size(d),
        "SH0": d.r.choice((0, 2, 3)),
    }
    if d.target.features.hafdbs:
        fields |= {"HA": d.flag(0.25), "HD": d.flag(0.3)}
    root = _root(d)
    return {"VTCR_EL2": REGISTERS["VTCR_EL2"].encode(**fields), "VTTBR_EL2": root}


def _registers(d: _Draft, regime: str) -> dict[str, int]:
    """A register file for *regime*."""
    el = 2 if regime in (EL2, EL20) else 1
    two_ranges = regime != EL2
    m = int(not d.chance(0.35 if d.two_stages else 0.03))
    mair = 0
    for n in range(8):
        mair |= d.r.choice(MEMORY_TYPES) << 8 * n
    registers = {
        f"SCTLR_EL{el}": m | 1 << 2 | 1 << 12 | d.flag(0.3) << 19,
        f"TCR_EL{el}": _tcr(d, two_ranges),
        f"TTBR0_EL{el}": _root(d),
        f"MAIR_EL{el}": mair,
        "HCR_EL2": HCR_RW,
    }
    if two_ranges:
        registers[f"TTBR1_EL{el}"] = _root(d)
    if regime == EL20:
        registers["HCR_EL2"] |= HCR_E2H
    if d.two_stages:
        registers |= _stage2_registers(d)
        registers["HCR_EL2"] |= HCR_VM | d.flag(0.1) * HCR_PTW | d.flag(0.05) * HCR_DC
        registers["HCR_EL2"] |= d.flag(0.2) * HCR_FWB * d.target.features.fwb
        registers["HCR_EL2"] |= d.flag(0.15) * HCR_CD
    return registers


def _mask(np: Any, rng: "np.random.Generator", count: int, probability: float) -> Any:
    """*count* words: all ones with *probability*, else zero."""
    return (rng.random(count) < probability).astype(np.uint64) * np.uint64((1 << 64) - 1)


def _descriptors(np: Any, rng: "np.random.Generator", d: _Draft, fwb: bool) -> bytes:
    """The block of tables, as bytes."""
    g = d.granule
    tables = TABLES[g.shift]
    count = tables * g.entries

    def rarely(word: Any, probability: float) -> Any:
        return word & _mask(np, rng, count, probability)

    def random_bits(high: int, low: int) -> Any:
        return rng.integers(0, 1 << high - low + 1, count, np.uint64) << np.uint64(low)

    address = np.uint64(d.base) + (rng.integers(0, tables, count, np.uint64) << np.uint64(g.shift))
    wild = _mask(np, rng, count, 0.01 if d.two_stages else 0.04)
    address = address & ~wild | (random_bits(47, 12) | np.uint64(1 << 41)) & wild
    attributes = random_bits(11, 2)
    if d.ds:
        attributes &= ~rarely(np.uint64(0x300), 0.9)
    attributes |= rarely(np.uint64(1 << 10), 0.8)  # AF
    if d.two_stages:  # readable at stage 2, so that both stages are often passed
        attributes |= rarely(np.uint64(1 << 10 | 1 << 6), 0.85)
    if d.two_stages and not fwb:  # MemAttr 0bxx00 is reserved but for Device
        reserved = (attributes & np.uint64(0x30) != 0) & (attributes & np.uint64(0xC) == 0)
        attributes |= np.where(reserved, np.uint64(0xC), np.uint64(0))
    kinds = [0.015, 0.07, 0.015, 0.9] if d.two_stages else [0.04, 0.2, 0.03, 0.73]
    kind = rng.choice(np.array([0, 1, 2, 3], np.uint64), count, p=kinds)
    if d.pages_only:
        kind |= np.uint64(2)
    clean_block = rarely(np.uint64((1 << 30) - (1 << 12)), 0.5)
    address &= np.where(kind == 1, ~clean_block, ~np.uint64(0))
    words = address | attributes | kind
    words |= rarely(random_bits(63, 51), 0.35)
    words |= rarely(random_bits(50, 48), 0.04)
    if g.shift > 12:
        words |= rarely(random_bits(g.shift - 1, 12), 0.04)
    return bytes(words.astype("<u8").tobytes())


def _addresses(np: Any, rng: "np.random.Generator", d: _Draft, registers: dict[str, int]) -> Any:
    """Addresses of both halves: mostly in range, the top byte and the bits above often odd."""
    tcr = registers.get("TCR_EL1", registers.get("TCR_EL2", 0))
    words = rng.integers(0, 1 << 64, PROBES, np.uint64)
    if not registers.get("SCTLR_EL1", registers.get("SCTLR_EL2", 0)) & 1 and d.chance(0.9):
        words &= np.uint64((1 << 48) - 1)  # with stage 1 off VA is the output
    upper = (words >> np.uint64(62) & np.uint64(1)).astype(bool)
    upper &= "TTBR1_EL1" in registers or "TTBR1_EL2" in registers
    bits = [64 - (tcr & 63), 64 - (tcr >> 16 & 63)]
    if d.two_stages:
        bits[0] = min(bits[0], 64 - (registers["VTCR_EL2"] & 63))
    masks = [np.uint64((1 << min(b, 55)) - 1) for b in bits]
    low = np.where(upper, masks[1], masks[0])
    words = np.where(upper, words | ~low, words & low)
    flip = np.uint64(1) << rng.integers(30, 64, PROBES, np.uint64)
    words ^= np.where(rng.random(PROBES) < 0.08, flip, np.uint64(0))
    top = rng.integers(0, 256, PROBES, np.uint64) << np.uint64(56)
    tagged = rng.random(PROBES) < 0.2
    return np.where(tagged, words & np.uint64((1 << 56) - 1) | top, words)


def scenario(seed: int, number: int, target: Target, regime: str | None = None) -> Question:
    """Scenario *number* of *seed* for *target*; *regime* fixes one of `Target.regimes`."""
    import numpy as np

    r = random.Random(f"{seed}/{number}")
    rng = np.random.default_rng(r.randrange(1 << 63))
    regime = regime or r.choice(target.regimes)
    two_stages = regime == STAGE12
    f = target.features
    g = GRANULES[r.choice(sorted(f.granules & f.granules_stage2 if two_stages else f.granules))]
    wide = f.lpa2 & f.lpa2_stage2 if two_stages else f.lpa2
    d = _Draft(
        r, target, g, r.choice(target.bases), g.name in wide and r.random() < 0.5, two_stages
    )
    d.ds_bit = d.ds or (g.name == "64K" and bool(wide) and d.chance(0.2))
    d.pages_only = target.no_level_minus1_leaf and d.ds and g.shift == 12
    registers = _registers(d, regime)
    operation = r.choice([op for op in OPERATIONS[regime] if target.pan2 or op[-1] != "P"])
    host = regime == EL20 and not operation.startswith("S1E2")
    if host or (regime == EL1 and d.chance(0.03)):
        registers["HCR_EL2"] |= HCR_TGE
    return Question(
        f"{target.name} seed {seed} scenario {number} ({regime})",
        operation,
        registers,
        {d.base: _descriptors(np, rng, d, bool(registers["HCR_EL2"] & HCR_FWB))},
        _addresses(np, rng, d, registers).tolist(),
        d.chance(0.5),
    )
