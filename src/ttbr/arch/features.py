"""What the CPU implements, as far as translation depends on it.

Without ID registers `Features()` takes the CPU to have what the registers ask for; the ID
registers narrow that. A control bit of an absent feature is RES0 and has no effect.
"""

from collections.abc import Mapping

from ttbr.arch.bits import bits
from ttbr.record import record

__all__ = ["PA_BITS", "Features", "features_of"]

# ID_AA64MMFR0_EL1.PARange and TCR_ELx.{IPS,PS}, VTCR_EL2.PS.
PA_BITS = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52}


@record
class Features:
    """Implemented features.

    `pa_bits` is PAMax; 52 implies FEAT_LPA. `lpa2` and `lpa2_stage2` name the granules that have
    FEAT_LPA2, `granules` and `granules_stage2` those that exist at all.
    """

    pa_bits: int = 52
    lva: bool = True
    lpa2: frozenset[str] = frozenset({"4K", "16K"})
    lpa2_stage2: frozenset[str] = frozenset({"4K", "16K"})
    granules: frozenset[str] = frozenset({"4K", "16K", "64K"})
    granules_stage2: frozenset[str] = frozenset({"4K", "16K", "64K"})
    ttst: bool = True
    hpds: bool = True
    hafdbs: int = 2
    e0pd: bool = True
    pan3: bool = True
    xnx: bool = True
    fwb: bool = True


def _granules(mmfr0: int) -> tuple[frozenset[str], frozenset[str]]:
    """(granules, granules with 52-bit descriptors) of stage 1."""
    tgran4, tgran64, tgran16 = bits(mmfr0, 31, 28), bits(mmfr0, 27, 24), bits(mmfr0, 23, 20)
    present = {"4K": tgran4 != 0xF, "16K": tgran16 != 0, "64K": tgran64 != 0xF}
    wide = {"4K": tgran4 == 1, "16K": tgran16 == 2}
    return frozenset(g for g in present if present[g]), frozenset(g for g in wide if wide[g])


def _granules_stage2(
    mmfr0: int, present: frozenset[str], wide: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """TGran*_2: 0 is "as stage 1", 1 absent, 2 present, 3 present with 52-bit descriptors."""
    fields = {"4K": bits(mmfr0, 43, 40), "64K": bits(mmfr0, 39, 36), "16K": bits(mmfr0, 35, 32)}
    has = {g for g, value in fields.items() if value > 1 or (value == 0 and g in present)}
    has_wide = {g for g, value in fields.items() if value == 3 or (value == 0 and g in wide)}
    return frozenset(has), frozenset(has_wide)


def features_of(registers: Mapping[str, int]) -> Features:
    """The features that ID_AA64MMFR0/1/2_EL1 tell; those not told are taken to be present."""
    known: dict[str, object] = {}
    mmfr0 = registers.get("ID_AA64MMFR0_EL1")
    if mmfr0 is not None:
        present, wide = _granules(mmfr0)
        present2, wide2 = _granules_stage2(mmfr0, present, wide)
        known |= {"pa_bits": PA_BITS.get(mmfr0 & 0xF, 52)}
        known |= {"granules": present, "lpa2": wide}
        known |= {"granules_stage2": present2, "lpa2_stage2": wide2}
    mmfr1 = registers.get("ID_AA64MMFR1_EL1")
    if mmfr1 is not None:
        known |= {"hafdbs": min(bits(mmfr1, 3, 0), 2), "hpds": bits(mmfr1, 15, 12) > 0}
        known |= {"pan3": bits(mmfr1, 23, 20) >= 3, "xnx": bits(mmfr1, 31, 28) > 0}
    mmfr2 = registers.get("ID_AA64MMFR2_EL1")
    if mmfr2 is not None:
        known |= {"lva": bits(mmfr2, 19, 16) > 0, "ttst": bits(mmfr2, 31, 28) > 0}
        known |= {"fwb": bits(mmfr2, 43, 40) > 0, "e0pd": bits(mmfr2, 63, 60) > 0}
    return Features(**known)  # type: ignore[arg-type]
