"""Features from the ID registers, field value by field value."""

import pytest

from captures import moments
from ttbr.arch.features import Features, features_of


def mmfr0(**fields: int) -> dict[str, int]:
    """ID_AA64MMFR0_EL1 with all granules absent where not told (TGran4, TGran64: 0b1111)."""
    low = {"PARange": 0, "TGran16": 20, "TGran64": 24, "TGran4": 28, "TGran16_2": 32}
    low |= {"TGran64_2": 36, "TGran4_2": 40}
    values = {"TGran4": 0xF, "TGran64": 0xF} | fields
    return {"ID_AA64MMFR0_EL1": sum(value << low[name] for name, value in values.items())}


def test_without_id_registers_all_is_present() -> None:
    f = features_of({})
    assert f == Features()
    assert f.pa_bits == 52
    assert f.granules == f.granules_stage2 == {"4K", "16K", "64K"}
    assert f.lpa2 == f.lpa2_stage2 == {"4K", "16K"}
    assert f.lva
    assert f.ttst
    assert f.hafdbs == 2


@pytest.mark.parametrize(
    ("pa_range", "bits"), [(0, 32), (1, 36), (2, 40), (3, 42), (4, 44), (5, 48), (6, 52)]
)
def test_physical_address_size(pa_range: int, bits: int) -> None:
    assert features_of(mmfr0(PARange=pa_range)).pa_bits == bits


@pytest.mark.parametrize(
    ("fields", "granules", "wide"),
    [
        ({}, set(), set()),
        ({"TGran4": 0}, {"4K"}, set()),
        ({"TGran4": 1}, {"4K"}, {"4K"}),
        ({"TGran16": 1}, {"16K"}, set()),
        ({"TGran16": 2}, {"16K"}, {"16K"}),
        ({"TGran64": 0}, {"64K"}, set()),
    ],
)
def test_granules(fields: dict[str, int], granules: set[str], wide: set[str]) -> None:
    f = features_of(mmfr0(**fields))
    assert (set(f.granules), set(f.lpa2)) == (granules, wide)
    assert (set(f.granules_stage2), set(f.lpa2_stage2)) == (
        granules,
        wide,
    )  # TGran*_2 = 0: as stage 1


@pytest.mark.parametrize(
    ("name", "value", "present", "wide"),
    [
        ("TGran4_2", 1, False, False), ("TGran4_2", 2, True, False), ("TGran4_2", 3, True, True),
        ("TGran16_2", 1, False, False), ("TGran16_2", 2, True, False), ("TGran16_2", 3, True, True),
        ("TGran64_2", 1, False, False), ("TGran64_2", 2, True, False),
    ],
)  # fmt: skip
def test_granules_of_stage2(name: str, value: int, present: bool, wide: bool) -> None:
    granule = name[5:-2] + "K"
    f = features_of(mmfr0(TGran4=1, TGran16=2, TGran64=0, **{name: value}))
    assert (granule in f.granules_stage2) == present
    assert (granule in f.lpa2_stage2) == wide
    assert f.granules == {"4K", "16K", "64K"}


@pytest.mark.parametrize(
    ("register", "low", "value", "name", "wanted"),
    [
        ("ID_AA64MMFR1_EL1", 0, 1, "hafdbs", 1), ("ID_AA64MMFR1_EL1", 0, 2, "hafdbs", 2),
        ("ID_AA64MMFR1_EL1", 0, 3, "hafdbs", 2), ("ID_AA64MMFR1_EL1", 12, 1, "hpds", True),
        ("ID_AA64MMFR1_EL1", 20, 3, "pan3", True), ("ID_AA64MMFR1_EL1", 20, 2, "pan3", False),
        ("ID_AA64MMFR1_EL1", 28, 1, "xnx", True), ("ID_AA64MMFR2_EL1", 16, 1, "lva", True),
        ("ID_AA64MMFR2_EL1", 28, 1, "ttst", True), ("ID_AA64MMFR2_EL1", 40, 1, "fwb", True),
        ("ID_AA64MMFR2_EL1", 60, 1, "e0pd", True),
    ],
)  # fmt: skip
def test_single_features(
    register: str, low: int, value: int, name: str, wanted: bool | int
) -> None:
    assert getattr(features_of({register: value << low}), name) == wanted
    assert not getattr(features_of({register: 0}), name)


def test_cpus_of_the_captures() -> None:
    """Cortex-A57: 44 bits, 4K and 64K, nothing newer; QEMU's max: 52 bits and LPA2."""
    names = {m.path.parent.name: m for m in moments()}
    checked = 0
    if "deb61-a57-nvhe" in names:
        f = features_of(names["deb61-a57-nvhe"].registers.values)
        assert (f.pa_bits, set(f.granules), f.lva, f.ttst) == (44, {"4K", "64K"}, False, False)
        checked += 1
    if "deb612-4k52lpa2-max-nvhe" in names:
        f = features_of(names["deb612-4k52lpa2-max-nvhe"].registers.values)
        assert (f.pa_bits, set(f.lpa2), f.ttst, f.fwb) == (52, {"4K", "16K"}, True, True)
        checked += 1
    if not checked:
        pytest.skip("no capture of a known CPU at hand")
