"""Regimes from registers: limits, encodings, start levels, roots, selection, what is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trees import (
    TG0,
    TG1,
    el1_registers,
    hcr_el2,
    stage2_registers,
    tcr_el1,
    tcr_el2,
    vtcr_el2,
)
from ttbr.arch.descriptors import OA_48, OA_64K_LPA, OA_LPA2
from ttbr.arch.features import Features
from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import (
    EL1,
    EL2,
    EL3,
    EL20,
    WalkParams,
    current_regime,
    regime_of,
    stage2_of,
    walk_params,
)
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.record import replace

OLD = Features(
    pa_bits=48, lva=False, lpa2=frozenset(), lpa2_stage2=frozenset(), ttst=False, hpds=False,
    hafdbs=0, e0pd=False, pan3=False, xnx=False, fwb=False,
)  # fmt: skip
HIGH = (1 << 64) - 1


def lower(features: Features | None = None, /, root: int = 0x8000_0000, **tcr: int) -> WalkParams:
    """TTBR0_EL1's half."""
    return regime_of(el1_registers(root, **tcr), EL1, features).half(0)


def upper(root: int = 0x8000_0000, **tcr: int) -> WalkParams:
    return regime_of(el1_registers(0, root, **tcr), EL1).half(HIGH)


# --- T0SZ ----------------------------------------------------------------------------------------

# (granule, DS, FEAT_LVA, FEAT_TTST) -> least and most T0SZ, D8.2.4.
SIZES = {
    ("4K", 0, True, True): (16, 48), ("4K", 1, True, True): (12, 48),
    ("4K", 0, True, False): (16, 39), ("4K", 1, False, False): (12, 39),
    ("16K", 0, True, True): (16, 48), ("16K", 1, False, True): (12, 48),
    ("16K", 0, True, False): (16, 39), ("64K", 0, False, True): (16, 47),
    ("64K", 0, True, True): (12, 47), ("64K", 1, False, True): (16, 47),
    ("64K", 0, False, False): (16, 39), ("64K", 1, True, False): (12, 39),
}  # fmt: skip


@pytest.mark.parametrize(("key", "limits"), SIZES.items(), ids=str)
@pytest.mark.parametrize("half", [0, 1])
def test_limits_of_tsz(
    key: tuple[str, int, bool, bool], limits: tuple[int, int], half: int
) -> None:
    name, ds, lva, ttst = key
    features = Features(lva=lva, ttst=ttst)
    for tsz in range(64):
        tcr = {f"T{half}SZ": tsz, "TG0": TG0[name], "TG1": TG1[name], "DS": ds}
        regime = regime_of(el1_registers(0, **tcr), EL1, features)
        va = HIGH if half else 0
        if limits[0] <= tsz <= limits[1]:
            assert regime.half(va).input_bits == 64 - tsz
            continue
        text = f"TCR_EL1.T{half}SZ={tsz} is out of range: {limits[0]} to {limits[1]}"
        with pytest.raises(InvalidError, match=text):
            regime.half(va)


def test_a_bad_half_does_not_spoil_the_other() -> None:
    regime = regime_of(el1_registers(0x1000, 0x2000, T0SZ=9), EL1)
    assert regime.half(HIGH).root == 0x2000
    assert [p.name for p in regime.halves] == ["TTBR1_EL1"]
    with pytest.raises(InvalidError, match=r"TCR_EL1\.T0SZ=9 is out of range"):
        regime.half(0)


def test_52_bit_tables_without_ds_are_refused_by_name() -> None:
    with pytest.raises(InvalidError, match=r"T1SZ=12 .*TCR_EL1\.DS=0"):
        upper(T1SZ=12)
    with pytest.raises(InvalidError, match="FEAT_LVA absent"):
        lower(OLD, T0SZ=12, TG0=TG0["64K"])
    with pytest.raises(InvalidError, match="FEAT_TTST absent"):
        lower(OLD, T0SZ=40)


# --- granule, output size, format ----------------------------------------------------------------


@pytest.mark.parametrize("tg", range(4))
def test_granule_encodings(tg: int) -> None:
    names = {0: "4K", 1: "64K", 2: "16K"}
    if tg in names:
        assert lower(TG0=tg).granule.name == names[tg]
        assert stage2_of(stage2_registers(0, TG0=tg)).granule.name == names[tg]
    else:
        with pytest.raises(InvalidError, match=r"TCR_EL1\.TG0=0b11 is reserved"):
            lower(TG0=tg)
        with pytest.raises(InvalidError, match=r"VTCR_EL2\.TG0=0b11 is reserved"):
            stage2_of(stage2_registers(0, TG0=tg))
    names = {1: "16K", 2: "4K", 3: "64K"}
    if tg in names:
        assert upper(TG1=tg).granule.name == names[tg]
    else:
        with pytest.raises(InvalidError, match=r"TCR_EL1\.TG1=0b00 is reserved"):
            upper(TG1=tg)


@pytest.mark.parametrize("name", TG0)
def test_a_granule_that_the_cpu_lacks(name: str) -> None:
    others = frozenset(TG0) - {name}
    with pytest.raises(InvalidError, match=f"the CPU has no {name} granule"):
        lower(Features(granules=others), TG0=TG0[name])
    with pytest.raises(InvalidError, match=f"the CPU has no {name} granule at stage 2"):
        stage2_of(stage2_registers(0, TG0=TG0[name]), Features(granules_stage2=others))


@pytest.mark.parametrize(
    ("ips", "bits"), [(0, 32), (1, 36), (2, 40), (3, 42), (4, 44), (5, 48), (6, 52)]
)
@pytest.mark.parametrize("pa_bits", [40, 48, 52])
def test_output_size_is_the_smaller_of_ips_and_the_cpu(ips: int, bits: int, pa_bits: int) -> None:
    features = Features(pa_bits=pa_bits)
    assert lower(features, IPS=ips).output_bits == min(bits, pa_bits)
    assert stage2_of(stage2_registers(0, PS=ips), features).output_bits == min(bits, pa_bits)
    regime = regime_of({"TTBR0_EL2": 0, "TCR_EL2": tcr_el2(PS=ips)}, EL2, features)
    assert regime.half(0).output_bits == min(bits, pa_bits)


def test_reserved_output_size() -> None:
    with pytest.raises(InvalidError, match=r"TCR_EL1\.IPS=0b111 is reserved"):
        lower(IPS=7)
    with pytest.raises(InvalidError, match=r"VTCR_EL2\.PS=0b111 is reserved"):
        stage2_of(stage2_registers(0, PS=7))
    with pytest.raises(InvalidError, match=r"TCR_EL2\.PS=0b111 is reserved"):
        regime_of({"TTBR0_EL2": 0, "TCR_EL2": tcr_el2(PS=7)}, EL2).half(0)


def test_format_of_the_descriptors() -> None:
    assert lower().form is OA_48
    assert lower(DS=1).form is OA_LPA2
    assert lower(DS=1, TG0=TG0["16K"]).form is OA_LPA2
    assert lower(TG0=TG0["64K"]).form is OA_64K_LPA
    assert lower(DS=1, TG0=TG0["64K"]).form is OA_64K_LPA  # DS is of 4K and 16K
    assert lower(Features(pa_bits=48), TG0=TG0["64K"]).form is OA_48
    assert lower(Features(lpa2=frozenset({"16K"})), DS=1).form is OA_48  # DS is RES0 there
    assert lower(Features(lpa2=frozenset({"4K"})), DS=1).form is OA_LPA2


def test_shareability_comes_from_tcr_with_ds() -> None:
    assert lower(SH0=3).sh is None
    assert lower(SH0=3, DS=1).sh == 3
    assert upper(SH1=2, DS=1).sh == 2
    assert stage2_of(stage2_registers(0, DS=1, SH0=2)).sh == 2


# --- the root ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "t0sz", "size"),
    [
        ("4K", 16, 4096), ("4K", 25, 4096), ("4K", 28, 512), ("4K", 24, 16), ("4K", 48, 128),
        ("16K", 17, 16384), ("16K", 16, 16), ("64K", 22, 65536), ("64K", 16, 512),
        ("64K", 47, 16),
    ],
)  # fmt: skip
def test_root_is_aligned_to_its_size(name: str, t0sz: int, size: int) -> None:
    """TTBR bits below the root's size are RES0; bit 0 is CnP, 63:48 the ASID."""
    p = lower(root=0xABCD_8765_4321_FFFF, T0SZ=t0sz, TG0=TG0[name])
    assert p.root_size == size
    assert p.root == 0x8765_4321_FFFF & ~(size - 1)


def test_52_bit_roots() -> None:
    """With DS=1, or 64K and IPS=52 bits, TTBR[5:2] is address [51:48] and the root has 64 bytes."""
    ttbr = 0xFFFF_0000_8765_43BC
    assert lower(root=ttbr, DS=1, T0SZ=12).root == 0xF_0000_8765_4380
    assert lower(root=ttbr, DS=1, T0SZ=24).root == 0xF_0000_8765_4380
    assert lower(root=ttbr, TG0=TG0["64K"], IPS=6, T0SZ=21).root == 0xF_0000_8765_4380
    assert lower(root=ttbr, TG0=TG0["64K"], IPS=5, T0SZ=21).root == 0x8765_43B0
    assert lower(root=ttbr, T0SZ=24).root == 0x8765_43B0


def test_linux_52_bit_offset_of_ttbr1() -> None:
    """64K: swapper_pg_dir + 0x1E00 is the root of 48 bits inside that of 52 bits."""
    assert upper(root=0x4200_1E00, TG1=TG1["64K"], T1SZ=16).root == 0x4200_1E00
    assert upper(root=0x4200_0000, TG1=TG1["64K"], T1SZ=12, IPS=6).root_size == 8192


@given(st.integers(16, 48), st.integers(0, (1 << 64) - 1))
def test_root_of_any_ttbr(t0sz: int, ttbr: int) -> None:
    p = lower(root=ttbr, T0SZ=t0sz)
    assert p.root % p.root_size == 0
    assert 0 <= (ttbr & ((1 << 48) - 2)) - p.root < p.root_size
    assert p.root_entries * 8 == p.root_size


def test_base_of_a_half() -> None:
    assert lower(T0SZ=25).base == 0
    assert upper(T1SZ=25).base == 0xFFFF_FF80_0000_0000
    assert upper(T1SZ=12, DS=1).base == 0xFFF0_0000_0000_0000


def test_levels_of_a_half() -> None:
    assert [row.level for row in lower(T0SZ=25).levels] == [1, 2, 3]
    assert [row.mask + 1 for row in lower(T0SZ=24).levels] == [2, 512, 512, 512]
    assert [row.shift for row in lower(T0SZ=12, DS=1).levels] == [48, 39, 30, 21, 12]
    assert [row.may_be_block for row in lower(T0SZ=12, DS=1).levels] == [False, *[True] * 4]
    assert [row.may_be_block for row in lower().levels] == [False, True, True, True]


# --- stage 2 -------------------------------------------------------------------------------------

# (granule, start level) -> T0SZ from the widest (16 concatenated tables) to the narrowest
# (an index of one bit), S2InconsistentSL.
STARTS = {
    ("4K", -1): (3, 15), ("4K", 0): (12, 24), ("4K", 1): (21, 33), ("4K", 2): (30, 42),
    ("4K", 3): (39, 51), ("16K", 0): (2, 16), ("16K", 1): (13, 27), ("16K", 2): (24, 38),
    ("16K", 3): (35, 49), ("64K", 1): (5, 21), ("64K", 2): (18, 34), ("64K", 3): (31, 47),
}  # fmt: skip
# (granule, SL2, SL0) -> start level, VTCR_EL2.SL0.
LEVELS = {
    ("4K", 0, 0): 2, ("4K", 0, 1): 1, ("4K", 0, 2): 0, ("4K", 0, 3): 3, ("4K", 1, 0): -1,
    ("16K", 0, 0): 3, ("16K", 0, 1): 2, ("16K", 0, 2): 1, ("16K", 0, 3): 0,
    ("64K", 0, 0): 3, ("64K", 0, 1): 2, ("64K", 0, 2): 1,
}  # fmt: skip
SHIFTS = {"4K": (12, 9), "16K": (14, 11), "64K": (16, 13)}
MATRIX = list(itertools.product(TG0, (0, 1), (0, 1), range(4)))


def wanted_start(name: str, ds: int, sl2: int, sl0: int) -> int | None:
    """The start level of SL2:SL0; SL2 is RES0 but for 4K with DS=1."""
    level = LEVELS.get((name, sl2 if name == "4K" and ds else 0, sl0))
    return None if name == "16K" and level == 0 and not ds else level


@pytest.mark.parametrize(("name", "ds", "sl2", "sl0"), MATRIX)
def test_stage2_start_levels(name: str, ds: int, sl2: int, sl0: int) -> None:
    """Every T0SZ: consistent ones give the root of up to 16 tables, others fault at level 0."""
    level = wanted_start(name, ds, sl2, sl0)
    shift, stride = SHIFTS[name]
    least = 12 if ds or name == "64K" else 16
    for t0sz in range(64):
        vtcr = {"TG0": TG0[name], "DS": ds, "SL2": sl2, "SL0": sl0, "T0SZ": t0sz}
        registers = stage2_registers(0xFFFF_FFFF_0000, **vtcr)
        if not least <= t0sz <= (47 if name == "64K" else 48):
            with pytest.raises(InvalidError, match=f"VTCR_EL2.T0SZ={t0sz} is out of range"):
                stage2_of(registers)
            continue
        p = stage2_of(registers)
        consistent = level is not None and (
            STARTS[name, level][0] <= t0sz <= STARTS[name, level][1]
        )
        assert (p.start_error == "") == consistent, (level, t0sz)
        if consistent:
            assert level is not None
            entries = 1 << (64 - t0sz - shift - (3 - level) * stride)
            assert (p.start_level, p.root_entries) == (level, entries)
            assert entries <= 16 << stride
            assert p.root % (entries * 8) == 0


@pytest.mark.parametrize(
    ("name", "sl0", "t0sz", "least"), [("4K", 2, 20, 44), ("16K", 2, 24, 42), ("64K", 2, 20, 44)]
)
def test_stage2_start_levels_need_a_wide_cpu(name: str, sl0: int, t0sz: int, least: int) -> None:
    """S2InvalidSL: the highest start level is reserved below 44 (16K: 42) bits of PA."""
    registers = stage2_registers(0, TG0=TG0[name], SL0=sl0, T0SZ=t0sz)
    assert stage2_of(registers, Features(pa_bits=least)).start_error == ""
    narrow = {44: 42, 42: 40}[least]
    assert f"{least}-bit" in stage2_of(registers, Features(pa_bits=narrow)).start_error


def test_stage2_level_3_start_needs_ttst() -> None:
    registers = stage2_registers(0, SL0=3, T0SZ=39)
    assert stage2_of(registers).start_error == ""
    assert stage2_of(registers, Features(ttst=False)).start_error != ""


def test_stage2_52_bit_root() -> None:
    vttbr = 0x0001_0000_8765_4310
    assert stage2_of(stage2_registers(vttbr, DS=1, PS=6)).root == 0x4_0000_8765_4000
    assert stage2_of(stage2_registers(vttbr)).root == 0x8765_4000  # 2 tables


def test_stage2_controls() -> None:
    p = stage2_of(stage2_registers(0, {"FWB": 1}, HA=1, HD=1))
    assert (p.ha, p.hd, p.fwb, p.xnx, p.stage) == (True, True, True, True, 2)
    old = stage2_of(stage2_registers(0, {"FWB": 1}, HA=1, HD=1), OLD)
    assert (old.ha, old.hd, old.fwb, old.xnx) == (False, False, False, False)
    assert not stage2_of(stage2_registers(0, HD=1)).hd  # HD counts with HA only


@pytest.mark.parametrize(
    ("hcr", "in_force"),
    [({"VM": 1}, True), ({"VM": 0}, False), ({"VM": 0, "DC": 1}, True), ({"TGE": 1}, False),
     ({"DC": 1, "TGE": 1}, False)],
)  # fmt: skip
def test_when_stage2_is_in_force(hcr: dict[str, int], in_force: bool) -> None:
    registers = el1_registers(0) | stage2_registers(0, hcr)
    assert (regime_of(registers, EL1).stage2 is not None) == in_force
    assert regime_of(registers | {"TTBR0_EL2": 0, "TCR_EL2": tcr_el2()}, EL2).stage2 is None


def test_stage2_in_secure_state_needs_secure_el2() -> None:
    registers = el1_registers(0) | stage2_registers(0)
    assert regime_of(registers | {"SCR_EL3": 1 << 10}, EL1).stage2 is None
    assert regime_of(registers | {"SCR_EL3": 1 << 18}, EL1).stage2 is not None
    assert regime_of(registers | {"SCR_EL3": 1}, EL1).stage2 is not None


def test_a_bad_stage2_is_kept_as_its_error() -> None:
    regime = regime_of(el1_registers(0) | stage2_registers(0, TG0=3), EL1)
    assert isinstance(regime.stage2, InvalidError)
    assert "VTCR_EL2.TG0" in str(regime.stage2)


# --- which regime --------------------------------------------------------------------------------


@pytest.mark.parametrize("e2h", [0, 1])
@pytest.mark.parametrize("tge", [0, 1])
@pytest.mark.parametrize("el", range(4))
def test_current_regime(e2h: int, tge: int, el: int) -> None:
    wanted = {
        0: EL20 if e2h and tge else EL1,
        1: EL1,
        2: EL20 if e2h else EL2,
        3: EL3,
    }
    assert current_regime({"HCR_EL2": hcr_el2(E2H=e2h, TGE=tge)}, el) == wanted[el]
    assert current_regime({}, el) == {0: EL1, 1: EL1, 2: EL2, 3: EL3}[el]


@pytest.mark.parametrize("el", [-1, 4])
def test_no_such_exception_level(el: int) -> None:
    with pytest.raises(InvalidError, match=f"exception level {el}"):
        current_regime({}, el)


def test_tcr_el2_is_read_by_e2h() -> None:
    """The same register: T1SZ, TG1 and IPS exist in EL2&0 only."""
    registers = {"TTBR0_EL2": 0x1000, "TTBR1_EL2": 0x2000, "TCR_EL2": tcr_el1(T0SZ=25, T1SZ=16)}
    host = regime_of(registers, EL20)
    assert (host.half(0).input_bits, host.half(HIGH).root) == (39, 0x2000)
    assert host.half(0).el0
    plain = regime_of({"TTBR0_EL2": 0x1000, "TCR_EL2": tcr_el2(T0SZ=25, PS=2)}, EL2)
    assert plain.upper is None
    assert (plain.half(HIGH).name, plain.half(0).output_bits) == ("TTBR0_EL2", 40)
    assert not plain.half(0).el0
    el3 = regime_of({"TTBR0_EL3": 0x3000, "TCR_EL3": tcr_el2(T0SZ=28)}, EL3)
    assert (el3.half(0).root, el3.half(0).input_bits, el3.secure) == (0x3000, 36, True)


def test_unknown_regime() -> None:
    with pytest.raises(InvalidError, match="regime 'EL4': must be one of EL1&0, EL2&0, EL2, EL3"):
        regime_of({}, "EL4")


@pytest.mark.parametrize("name", ["TTBR0_EL1", "TCR_EL1"])
def test_missing_register(name: str) -> None:
    registers = el1_registers(0)
    del registers[name]
    with pytest.raises(InvalidError, match=f"register {name} is missing"):
        regime_of(registers, EL1).half(0)


@pytest.mark.parametrize("name", ["VTTBR_EL2", "VTCR_EL2"])
def test_missing_register_of_stage2(name: str) -> None:
    registers = stage2_registers(0)
    del registers[name]
    with pytest.raises(InvalidError, match=f"register {name} is missing"):
        stage2_of(registers)


@pytest.mark.parametrize(
    ("sctlr", "hcr", "on"),
    [(1, {}, True), (0, {}, False), (1, {"DC": 1}, False), (1, {"TGE": 1}, False),
     (1, {"TGE": 1, "E2H": 1}, True), (1, {"DC": 1, "TGE": 1}, False)],
)  # fmt: skip
def test_when_the_mmu_is_on(sctlr: int, hcr: dict[str, int], on: bool) -> None:
    """SCTLR_EL1.M, as 0 under HCR_EL2.DC and under TGE without E2H."""
    registers = el1_registers(0) | stage2_registers(0, {"VM": 0} | hcr) | {"SCTLR_EL1": sctlr}
    regime = regime_of(registers, EL1)
    assert regime.mmu_on == on
    cacheable = hcr.get("DC") and not hcr.get("TGE")
    assert regime.default_attr == (0xFF if cacheable else 0)


# --- EPD, and controls of absent features --------------------------------------------------------


@pytest.mark.parametrize("bad", [{"T0SZ": 5}, {"TG0": 3}, {"T0SZ": 63, "TG0": 3}])
def test_epd_hides_an_invalid_half(bad: dict[str, int]) -> None:
    with pytest.raises(InvalidError):
        lower(**bad)
    assert lower(**bad, EPD0=1).epd
    assert not regime_of(el1_registers(0, 0, **bad, EPD0=1), EL1).half(HIGH).epd


def test_epd1() -> None:
    regime = regime_of(el1_registers(0, 0, EPD1=1, TG1=0), EL1)
    assert regime.half(HIGH).epd
    assert not regime.half(0).epd


@pytest.mark.parametrize(
    ("control", "flag"),
    [("HPD0", "hpd"), ("HA", "ha"), ("E0PD0", "e0pd"), ("TBI0", "tbi"), ("TBID0", "tbid"),
     ("EPD0", "epd")],
)  # fmt: skip
def test_controls(control: str, flag: str) -> None:
    assert getattr(lower(**{control: 1}), flag) is True
    assert getattr(lower(), flag) is False
    other = {"E0PD0": "E0PD1"}.get(control, control.replace("0", "1"))
    assert getattr(upper(**{other: 1}), flag) is True
    if control not in ("TBI0", "TBID0", "EPD0"):  # there without a feature
        assert getattr(lower(OLD, **{control: 1}), flag) is False


def test_dirty_state_needs_the_access_flag() -> None:
    assert lower(HA=1, HD=1).hd
    assert not lower(HD=1).hd
    assert not lower(replace(OLD, hafdbs=1), HA=1, HD=1).hd


def test_sctlr_controls() -> None:
    registers = el1_registers(0) | {"SCTLR_EL1": 1 | 1 << 19 | 1 << 57}
    p = regime_of(registers, EL1).half(0)
    assert (p.wxn, p.pan3) == (True, True)
    assert not regime_of(registers, EL1, OLD).half(0).pan3
    assert regime_of({k: v for k, v in registers.items() if "SCTLR" not in k}, EL1).mmu_on


# --- what is not modelled ------------------------------------------------------------------------

EL2_REGISTERS = {"TTBR0_EL2": 0, "TCR_EL2": tcr_el2()}
HOST = {"TTBR0_EL2": 0, "TTBR1_EL2": 0, "TCR_EL2": tcr_el1()}
EL3_REGISTERS = {"TTBR0_EL3": 0, "TCR_EL3": tcr_el2()}
UNMODELLED = [
    *(
        (name, registers | {f"TCR2_EL{el}": 1 << bit}, f"TCR2_EL{el}.{field}=1")
        for name, registers, el in ((EL1, el1_registers(0), 1), (EL20, HOST, 2))
        for field, bit in (
            ("PnCH", 0), ("PIE", 1), ("E0POE", 2), ("POE", 3), ("AIE", 4), ("D128", 5),
        )
    ),
    *(
        (EL2, EL2_REGISTERS | {"TCR2_EL2": 1 << bit}, f"TCR2_EL2.{field}=1")
        for field, bit in (("PnCH", 0), ("PIE", 1), ("POE", 3), ("AIE", 4))
    ),
    *(
        (EL3, EL3_REGISTERS | {"TCR_EL3": tcr_el2() | 1 << bit}, f"TCR_EL3.{field}=1")
        for field, bit in (("PnCH", 34), ("PIE", 35), ("POE", 36), ("AIE", 37), ("D128", 38))
    ),
    (EL1, el1_registers(0) | {"SCTLR_EL1": 1 | 1 << 25}, "SCTLR_EL1.EE=1"),
    (EL2, EL2_REGISTERS | {"SCTLR_EL2": 1 | 1 << 25}, "SCTLR_EL2.EE=1"),
    (EL3, EL3_REGISTERS | {"SCTLR_EL3": 1 | 1 << 25}, "SCTLR_EL3.EE=1"),
    (EL1, el1_registers(0) | {"HCR_EL2": hcr_el2(NV=1, NV1=1)}, "HCR_EL2.NV1=1"),
    (EL1, el1_registers(0) | {"HCR_EL2": 0}, "HCR_EL2.RW=0"),
    (EL1, el1_registers(0) | {"GPCCR_EL3": 1 << 16}, "GPCCR_EL3.GPC=1"),
    (EL1, el1_registers(0) | {"SCR_EL3": 1 << 62 | 1}, "SCR_EL3.NSE=1"),
    (EL1, el1_registers(0, MTX0=1), "TCR_EL1.MTX0=1"),
    (EL2, EL2_REGISTERS | {"TCR_EL2": tcr_el2(MTX=1)}, "TCR_EL2.MTX=1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "registers", "text"), UNMODELLED, ids=lambda v: str(v)[:40])
def test_what_is_not_modelled_is_refused_by_name(
    name: str, registers: dict[str, int], text: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"^{text}: .*not modelled$"):
        regime_of(registers, name).half(0)


@pytest.mark.parametrize("field", ["D128", "S2PIE", "S2POE"])
def test_unmodelled_stage2_is_refused_by_name(field: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^VTCR_EL2.{field}=1: .*not modelled$"):
        stage2_of(stage2_registers(0, **{field: 1}))


# --- params from plain values --------------------------------------------------------------------


def test_walk_params_agree_with_registers() -> None:
    plain = walk_params(
        "TTBR0_EL1", GRANULES["4K"], 39, 0x4000_0000, el0=True, mair=0x4404FF, output_bits=48
    )
    assert plain == lower(root=0x4000_0000, T0SZ=25)


@pytest.mark.parametrize("input_bits", [-1, 12, 53, 64])
def test_walk_params_refuse_an_impossible_size(input_bits: int) -> None:
    with pytest.raises(InvalidError, match=str(input_bits)):
        walk_params("T", GRANULES["4K"], input_bits, 0)


@given(st.integers(0, HIGH), st.integers(0, HIGH), st.integers(0, HIGH), st.integers(0, HIGH))
def test_any_registers_give_a_regime_or_a_refusal(tcr: int, ttbr: int, hcr: int, vtcr: int) -> None:
    registers = {"TTBR0_EL1": ttbr, "TTBR1_EL1": ttbr, "TCR_EL1": tcr, "HCR_EL2": hcr}
    registers |= {"VTCR_EL2": vtcr, "VTTBR_EL2": ttbr, "TCR_EL2": tcr, "TTBR0_EL2": ttbr}
    for name in (EL1, EL2, EL20):
        try:
            regime = regime_of(registers, name)
        except InvalidError:
            continue
        for p in regime.halves:
            assert p.root + p.root_size <= 1 << 52 or p.start_error


def test_vtcr_of_the_builder_is_what_kvm_writes() -> None:
    """The helper of these tests against a value that KVM writes (40-bit IPA, 40-bit PA)."""
    assert vtcr_el2(PS=2, SH0=3, ORGN0=1, IRGN0=1) == 0x8002_3558
