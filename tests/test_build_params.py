"""Every regime, granule and size that registers can say reads back equal; the others are refused."""

import pytest

from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import EL1, EL2, EL3, EL20, STAGE2, WalkParams, regime_of, stage2_of
from ttbr.build import (
    Mair,
    features_needed,
    features_of_params,
    regime_name,
    registers_of,
    table_params,
)
from ttbr.build.params import root_alignment, stage2_start
from ttbr.errors import InvalidError
from ttbr.record import replace


@pytest.mark.parametrize("granule", list(GRANULES))
@pytest.mark.parametrize("regime", [EL1, EL20, EL2, EL3, STAGE2])
def test_read_back(regime: str, granule: str) -> None:
    sizes = []
    for bits in range(12, 54):
        for wide in (False, True):
            form = {"lpa" if granule == "64K" else "ds": wide}
            for upper in (False, True) if regime in (EL1, EL20) else (False,):
                try:
                    p = table_params(regime, granule, bits, upper=upper, **form)
                except InvalidError:
                    continue
                sizes.append((bits, wide))
                assert regime_name(p) == regime
                root = 7 * max(root_alignment(p), 64) | (1 << 51 if wide else 0)
                check(replace(p, root=root & -p.root_size))
    assert {bits for bits, wide in sizes if not wide} >= set(range(25, 49))
    assert (52, True) in sizes


def check(p: WalkParams) -> None:
    registers, features = registers_of(p), features_of_params(p)
    if p.stage == 2:
        assert stage2_of(registers, features) == p
        return
    regime = regime_of(registers, regime_name(p), features)
    assert (regime.upper if p.upper else regime.lower) == p
    assert regime.mmu_on
    # The other half is never walked.
    other = regime.lower if p.upper else regime.upper
    assert other is None or (isinstance(other, WalkParams) and other.epd)


def test_flags_read_back() -> None:
    flags = dict.fromkeys(("hpd", "ha", "hd", "e0pd", "tbi", "tbid", "wxn", "pan3"), True)
    for upper in (False, True):
        p = table_params(EL1, "4K", 48, upper=upper, mair=0xFF, **flags)
        check(p)
    check(table_params(EL2, "16K", 47, hpd=True, ha=True, tbi=True, wxn=True))
    check(table_params(STAGE2, "64K", 44, ha=True, hd=True, fwb=True, output_bits=44))
    check(table_params(STAGE2, "4K", 40, xnx=False))
    check(table_params(EL1, "4K", 48, secure=True))


# arch/arm64/kvm/hyp/pgtable.c: what KVM chooses for these sizes.
@pytest.mark.parametrize(
    ("granule", "bits", "start", "tables"),
    [
        ("4K", 40, 1, 2),
        ("4K", 43, 1, 16),
        ("4K", 44, 0, 1),
        ("4K", 48, 0, 1),
        ("4K", 32, 2, 4),
        ("16K", 40, 2, 16),
        ("16K", 47, 1, 1),
        ("16K", 48, 1, 2),
        ("64K", 40, 2, 1),
        ("64K", 42, 2, 1),
        ("64K", 44, 2, 4),
        ("64K", 48, 1, 1),
    ],
)
def test_stage2_start_as_kvm(granule: str, bits: int, start: int, tables: int) -> None:
    p = table_params(STAGE2, granule, bits)
    assert p.start_level == start == stage2_start(p.granule, bits)
    assert max(p.root_size // p.granule.size, 1) == tables


def test_stage2_52_bits() -> None:
    p = table_params(STAGE2, "4K", 52, ds=True)
    assert (p.start_level, p.root_size) == (0, 0x10000)
    deep = table_params(STAGE2, "4K", 52, ds=True, start=-1)
    assert (deep.start_level, deep.root_size) == (-1, 0x80)
    assert registers_of(deep)["VTCR_EL2"] >> 33 & 1


def test_registers_of_a_known_kernel() -> None:
    """The EL1 fields that Linux 4K/48 sets, as in its TCR: T0SZ T1SZ 16, WBWA, ISH, TG1 4K, IPS."""
    low = table_params(EL1, "4K", 48, mair=0x0404_4444_FFFF_0004)
    high = table_params(EL1, "4K", 48, upper=True, mair=0x0404_4444_FFFF_0004)
    registers = registers_of(low, high)
    assert registers["TCR_EL1"] == 0x5_B510_3510
    assert registers["SCTLR_EL1"] & 0x1005 == 0x1005


@pytest.mark.parametrize("regime", [EL1, EL20])
@pytest.mark.parametrize("granule", ["4K", "16K", "64K"])
@pytest.mark.parametrize("upper", [False, True])
def test_no_reserved_granule_in_a_half_without_tables(
    regime: str, granule: str, upper: bool
) -> None:
    """TG0 0b11 and TG1 0b00 are reserved, whatever EPD says (TCR_EL1)."""
    p = table_params(regime, granule, 42, upper=upper)
    tcr = registers_of(p)["TCR_EL1" if regime == EL1 else "TCR_EL2"]
    assert tcr >> 14 & 3 != 0b11
    assert tcr >> 30 & 3 != 0b00


@pytest.mark.parametrize(
    ("arguments", "flags", "needed"),
    [
        ((EL1, "4K", 48), {}, ()),
        ((EL1, "4K", 25), {}, ()),
        ((EL1, "4K", 24), {}, ("FEAT_TTST",)),
        ((STAGE2, "4K", 25), {"start": 3}, ("FEAT_TTST",)),
        ((EL1, "64K", 52), {}, ("FEAT_LVA",)),
        ((EL1, "64K", 52), {"lpa": True}, ("FEAT_LVA", "FEAT_LPA")),
        ((STAGE2, "64K", 52), {"lpa": True}, ("FEAT_LPA",)),
        ((EL2, "16K", 48), {"ds": True}, ("FEAT_LPA2",)),
        ((EL20, "4K", 48), {"ha": True, "hpd": True}, ("FEAT_VHE", "FEAT_HAFDBS", "FEAT_HPDS")),
        ((STAGE2, "4K", 40), {"fwb": True}, ("FEAT_S2FWB",)),
    ],
)
def test_features_needed(
    arguments: tuple[str, str, int], flags: dict[str, object], needed: tuple[str, ...]
) -> None:
    assert features_needed(table_params(*arguments, **flags)) == needed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("EL4", "4K", 48), "regime 'EL4': must be one of"),
        ((EL1, "8K", 48), "granule '8K'"),
        ((EL1, "4K", 49), "is out of range: .*48"),
        ((EL1, "64K", 12), "input size of 12 bits: must be 17 to 52"),
        ((EL1, "4K", 15), "is out of range"),
    ],
)
def test_refusals(arguments: tuple[str, str, int], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        table_params(*arguments)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"upper": True, "regime": EL2}, "EL2 has no upper range"),
        ({"ds": True, "granule": "64K"}, "ds: the 64K granule has no FEAT_LPA2 format"),
        ({"lpa": True}, "lpa: the 4K granule has no FEAT_LPA format"),
        ({"start": 1}, "start: only stage 2"),
        ({"output_bits": 39}, "output size of 39 bits: must be 32, 36"),
        ({"start": 3, "regime": STAGE2}, "start level 3 does not fit T0SZ=16"),
        ({"start": -1, "regime": STAGE2}, "stage 2 with 4K cannot start at level -1"),
        ({"fwb": True}, "fwb=True: the registers of TTBR0_EL1 give False"),
        ({"hd": True}, "hd=True: the registers of TTBR0_EL1 give False"),
    ],
)
def test_flags_that_nothing_says(flags: dict[str, bool], message: str) -> None:
    words: dict[str, object] = {"regime": EL1, "granule": "4K", "input_bits": 48, **flags}
    with pytest.raises(InvalidError, match=message):
        table_params(**words)  # type: ignore[arg-type]


def test_root_must_fit_the_register() -> None:
    p = table_params(EL1, "4K", 48)
    with pytest.raises(InvalidError, match="root 0x1800 is not aligned to 0x1000"):
        registers_of(replace(p, root=0x1800))
    with pytest.raises(InvalidError, match="root 0x1000000000000 does not fit in TTBR0_EL1"):
        registers_of(replace(p, root=1 << 48))
    wide = replace(table_params(EL1, "4K", 48, ds=True), root=0xA_0000_0000_1000)
    assert registers_of(wide)["TTBR0_EL1"] == 0x1000 | 0xA << 2
    assert Mair().value == 0
