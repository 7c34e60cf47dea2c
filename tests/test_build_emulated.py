"""An emulated CPU translates built tables, with the registers that were built beside them."""

import random

import pytest

from build_maps import random_regions
from emulate_tables import needs_unicorn
from ttbr.arch.attributes import PR, PW, UR, UW
from ttbr.arch.regime import EL1, EL2, STAGE2
from ttbr.build import build, table_params
from ttbr.build.attributes import wanted_permissions
from ttbr.emulate.unicorn_at import UnicornAt

F, PA = 1, 0x000F_FFFF_FFFF_F000
OPERATIONS = {
    EL1: {PR: "S1E1R", PW: "S1E1W", UR: "S1E0R", UW: "S1E0W"},
    EL2: {PR: "S1E2R", PW: "S1E2W"},
    STAGE2: {PR: "S12E1R", PW: "S12E1W", UR: "S12E0R"},
}


def one_case(seed: int, regime: str) -> int:
    """Translate the ends of all regions and what is beside them; how many addresses were asked."""
    rng = random.Random(seed)
    granule = rng.choice(("4K", "4K", "16K", "64K"))
    bits = rng.choice((40, 42) if regime == STAGE2 else (36, 39, 42, 47, 48))
    upper = regime == EL1 and rng.random() < 0.5
    p = table_params(regime, granule, bits, upper=upper, output_bits=42)
    regions = random_regions(rng, p, regime, pages=300)
    tables = build(regions, p, base=1 << 33)
    asked = 0
    with UnicornAt() as cpu:
        cpu.map_pages(tables.pages())
        cpu.load(tables.registers)
        for region in regions:
            page = p.granule.size
            inside = sorted(
                {int(region.va), region.last & -page, region.va + region.size // 2 & -page}
            )
            beside = [
                va for va in (region.va - page, region.last + 1) if regions.lookup(va) is None
            ]
            beside = [va for va in beside if p.base <= va < p.base + (1 << p.input_bits)]
            wanted = wanted_permissions(region.attributes, p.stage)
            for need, operation in OPERATIONS[regime].items():
                pars = cpu.at(operation, inside)
                if wanted & need:
                    assert [par & (PA | F) for par in pars] == [
                        region.pa + va - region.va for va in inside
                    ]
                else:
                    assert all(par & F and par >> 3 & 15 == 3 for par in pars)  # Permission fault
                assert all(par & F and par >> 3 & 15 == 1 for par in cpu.at(operation, beside))
            asked += len(inside) + len(beside)
            if regime != STAGE2 and wanted & PR:
                (par,) = cpu.at(OPERATIONS[regime][PR], inside[:1])
                assert par >> 56 == region.attributes.memory_byte
    return asked


@needs_unicorn
@pytest.mark.parametrize("regime", [EL1, EL2, STAGE2])
def test_an_emulated_cpu_agrees(regime: str) -> None:
    assert sum(one_case(seed, regime) for seed in range(60)) > 800


@needs_unicorn
@pytest.mark.slow
@pytest.mark.parametrize("regime", [EL1, EL2, STAGE2])
def test_an_emulated_cpu_agrees_at_length(regime: str) -> None:
    for seed in range(100, 1100):
        one_case(seed, regime)
