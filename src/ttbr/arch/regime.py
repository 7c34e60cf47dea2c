"""Translation regimes: which registers, formats and features apply, validated once.

`regime_of` turns a register file into a frozen `Regime`. Each half of the address space (and
stage 2) is a `WalkParams`, the Arm ARM's name for what a table walk needs (S1TTWParams,
S2TTWParams). A half that cannot be walked as programmed (a reserved TG, T0SZ out of range) holds
the error in its place: it is raised only by who asks for an address in that half.
"""

from collections.abc import Mapping

from ttbr.arch.attributes import DEVICE_NGNRNE, NORMAL_NC, NORMAL_WB, NORMAL_WT_RA
from ttbr.arch.bits import Register, ones
from ttbr.arch.features import PA_BITS, Features, features_of
from ttbr.arch.geometry import GRANULES, LAST_LEVEL, Granule, level_count, root_bytes
from ttbr.arch.params import Level as Level
from ttbr.arch.params import WalkParams, walk_params
from ttbr.arch.registers import REGISTERS
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.record import record

__all__ = [
    "EL1",
    "EL2",
    "EL20",
    "EL3",
    "STAGE2",
    "Regime",
    "Translated",
    "WalkParams",
    "current_regime",
    "regime_of",
    "size_errors",
    "stage2_of",
    "stage2_start",
    "walk_params",
]

EL1, EL20, EL2, EL3, STAGE2 = "EL1&0", "EL2&0", "EL2", "EL3", "stage 2"

_GRANULE_OF_TG0 = {g.tg0: g for g in GRANULES.values()}
_GRANULE_OF_TG1 = {g.tg1: g for g in GRANULES.values()}


# A half, or the reason why it cannot be walked.
Translated = WalkParams | InvalidError


@record
class Regime:
    """A translation regime as programmed.

    `lower` and `upper` are the halves (upper is None in a regime with one range), `stage2` the
    second stage when HCR_EL2.VM puts it in force for this regime. `mmu_on` is SCTLR_ELx.M;
    `default_attr` the memory type with the MMU off (HCR_EL2.DC makes it Normal Write-Back) and
    `fetch_attr` that of instruction fetches (AArch64.S1DisabledOutput); `cache_disabled` is
    HCR_EL2.CD, `fetch_cache_disabled` HCR_EL2.ID. `top_byte_ignored` is TCR_ELx.TBIn of each
    half, `fetch_top_byte_ignored` the same for fetches (TBIDn): both count with the MMU off too.
    """

    name: str
    mmu_on: bool
    lower: Translated
    upper: Translated | None
    pa_bits: int
    secure: bool
    stage2: Translated | None = None
    protected_walk: bool = False
    cache_disabled: bool = False
    fetch_cache_disabled: bool = False
    default_attr: int = DEVICE_NGNRNE
    fetch_attr: int = NORMAL_NC
    top_byte_ignored: tuple[bool, ...] = (False, False)
    fetch_top_byte_ignored: tuple[bool, ...] = (False, False)

    def half(self, va: int) -> WalkParams:
        """The half that translates *va* (bit 55 selects); raises the half's error if it has one."""
        chosen = self.upper if self.upper is not None and va >> 55 & 1 else self.lower
        if isinstance(chosen, InvalidError):
            raise chosen
        return chosen

    @property
    def halves(self) -> tuple[WalkParams, ...]:
        """The halves that can be walked, lower first."""
        return tuple(h for h in (self.lower, self.upper) if isinstance(h, WalkParams))


def _base_address(ttbr: int, size: int, wide: bool) -> int:
    """TTBR_ELx.BADDR: bits below the root's size are RES0; *wide* has [51:48] in bits 5:2.

    AArch64.S1TTBaseAddress: a 52-bit base is aligned to at least 64 bytes.
    """
    if wide:
        return (ttbr & ones(48) & ~ones(6) | (ttbr >> 2 & 0xF) << 48) & ~(size - 1)
    return ttbr & ones(48) & ~1 & ~(size - 1)


def _output_bits(register: str, name: str, ps: int, features: Features) -> int:
    if ps not in PA_BITS:
        raise InvalidError(f"{register}.{name}={ps:#05b} is reserved")
    return min(PA_BITS[ps], features.pa_bits)


def _check_size(register: str, name: str, tsz: int, g: Granule, wide: bool, ttst: bool) -> None:
    """T0SZ or T1SZ is legal, D8.2.4: *wide* allows 12 to 15 (FEAT_LVA, FEAT_LPA2 with DS=1)."""
    least = 12 if wide else 16
    most = 39 if not ttst else 47 if g.shift == 16 else 48
    if least <= tsz <= most:
        return
    hint = f"{least} to {most} with the {g.name} granule"
    if 12 <= tsz < 16:
        hint += ", FEAT_LVA absent" if g.shift == 16 else f", {register}.DS=0 or no FEAT_LPA2"
    elif 39 < tsz <= 48 and not ttst:
        hint += ", FEAT_TTST absent"
    raise InvalidError(f"{register}.{name}={tsz} is out of range: {hint}")


def size_errors(register: Register, value: int) -> list[str]:
    """Each input size in *value* of a TCR or VTCR that no feature makes legal (D8.2.4).

    A half whose walks are disabled (EPD) or whose granule is reserved has none.
    """
    fields = {field.name: found for field, found in register.decode(value)}
    errors = []
    for half, granules in ((0, _GRANULE_OF_TG0), (1, _GRANULE_OF_TG1)):
        g = granules.get(fields.get(f"TG{half}", -1))
        if g is None or fields.get(f"EPD{half}"):
            continue
        wide = bool(fields.get("DS")) or g.shift == 16
        name = f"T{half}SZ"
        try:
            _check_size(register.name, name, fields[name], g, wide, ttst=True)
        except InvalidError as error:
            errors.append(str(error))
    return errors


@record
class _Controls:
    """Where one half's controls stand: field names in its TCR, and the registers it belongs to."""

    tcr: str
    layout: str
    ttbr: str
    upper: bool = False
    tsz: str = "T0SZ"
    tg: str = "TG0"
    ps: str = "PS"
    sh: str = "SH0"
    tbi: str = "TBI"
    tbid: str = "TBID"
    hpd: str = "HPD"
    epd: str = ""
    e0pd: str = ""
    mtx: str = "MTX"


def _two_ranges(tcr: str, layout: str, el: int) -> tuple[_Controls, _Controls]:
    def half(n: int) -> _Controls:
        return _Controls(
            tcr,
            layout,
            f"TTBR{n}_EL{el}",
            upper=n == 1,
            tsz=f"T{n}SZ",
            tg=f"TG{n}",
            ps="IPS",
            sh=f"SH{n}",
            tbi=f"TBI{n}",
            tbid=f"TBID{n}",
            hpd=f"HPD{n}",
            epd=f"EPD{n}",
            e0pd=f"E0PD{n}",
            mtx=f"MTX{n}",
        )

    return half(0), half(1)


def _one_range(tcr: str, el: int) -> _Controls:
    return _Controls(tcr, tcr, f"TTBR0_EL{el}")


# regime -> (controls of each half, EL of SCTLR and MAIR, has EL0)
_REGIMES: dict[str, tuple[tuple[_Controls, ...], int, bool]] = {
    EL1: (_two_ranges("TCR_EL1", "TCR_EL1", 1), 1, True),
    EL20: (_two_ranges("TCR_EL2", "TCR_EL2_E2H", 2), 2, True),
    EL2: ((_one_range("TCR_EL2", 2),), 2, False),
    EL3: ((_one_range("TCR_EL3", 3),), 3, False),
}


def _need(registers: Mapping[str, int], name: str) -> int:
    value = registers.get(name)
    if value is None:
        raise InvalidError(f"register {name} is missing")
    return value


def _half(
    c: _Controls, registers: Mapping[str, int], f: Features, el: int, el0: bool, secure: bool
) -> WalkParams:
    """One half of a stage 1 regime; `InvalidError` where it is not walkable as programmed."""
    tcr = _need(registers, c.tcr)
    layout = REGISTERS[c.layout]

    def get(name: str) -> int:
        return layout[name].get(tcr) if name else 0

    if get(c.mtx):
        raise UnsupportedError(f"{c.tcr}.{c.mtx}=1: canonical tags (FEAT_MTE4) are not modelled")
    tg = get(c.tg)
    g = (_GRANULE_OF_TG1 if c.upper else _GRANULE_OF_TG0).get(tg)
    if g is None:
        raise InvalidError(f"{c.tcr}.{c.tg}={tg:#04b} is reserved")
    if g.name not in f.granules:
        raise InvalidError(f"{c.tcr}.{c.tg}={tg:#04b}: the CPU has no {g.name} granule")
    ds = bool(get("DS")) and g.name in f.lpa2
    tsz = get(c.tsz)
    _check_size(c.tcr, c.tsz, tsz, g, ds or (g.shift == 16 and f.lva), f.ttst)
    ps = get(c.ps)
    output = _output_bits(c.tcr, c.ps, ps, f)
    lpa = g.shift == 16 and f.pa_bits == 52
    sctlr = registers.get(f"SCTLR_EL{el}", 1)
    size = root_bytes(g, 64 - tsz, LAST_LEVEL + 1 - level_count(g, 64 - tsz))
    return walk_params(
        c.ttbr,
        g,
        64 - tsz,
        _base_address(_need(registers, c.ttbr), size, ds or (lpa and ps == 6)),
        upper=c.upper,
        ds=ds,
        lpa=lpa,
        output_bits=output,
        sh=get(c.sh) if ds else None,
        hpd=f.hpds and bool(get(c.hpd)),
        ha=f.hafdbs >= 1 and bool(get("HA")),
        hd=f.hafdbs >= 2 and bool(get("HA")) and bool(get("HD")),
        epd=bool(get(c.epd)),
        e0pd=f.e0pd and bool(get(c.e0pd)),
        tbi=bool(get(c.tbi)),
        tbid=bool(get(c.tbid)),
        el0=el0,
        mair=registers.get(f"MAIR_EL{el}", 0),
        wxn=bool(sctlr >> 19 & 1),
        pan3=f.pan3 and bool(sctlr >> 57 & 1),
        secure=secure,
    )


# Start level of stage 2 by (SL2, SL0), D8.2.7 and VTCR_EL2: SL2 counts with 4K and DS=1 only.
_STAGE2_START: dict[str, dict[tuple[int, int], int]] = {
    "4K": {(0, 0): 2, (0, 1): 1, (0, 2): 0, (0, 3): 3, (1, 0): -1},
    "16K": {(0, 0): 3, (0, 1): 2, (0, 2): 1, (0, 3): 0},
    "64K": {(0, 0): 3, (0, 1): 2, (0, 2): 1},
}


def _stage2_start(vtcr: int, g: Granule, ds: bool, tsz: int, f: Features) -> tuple[int, str]:
    """(start level, why every walk faults or ""): AArch64.S2InvalidSL and S2InconsistentSL."""
    sl2, sl0 = _start_fields(vtcr, g, ds)
    start = _STAGE2_START[g.name].get((sl2, sl0))
    text = f"VTCR_EL2.SL2={sl2} SL0={sl0}"
    if start is None:
        return 1, f"{text} is reserved with the {g.name} granule"
    least_pa = {("4K", 0): 44, ("16K", 1): 42, ("64K", 1): 44}.get((g.name, start), 0)
    if f.pa_bits < least_pa:
        return start, f"{text}: start level {start} needs {least_pa}-bit physical addresses"
    if (g.name == "16K" and start == 0 and not ds) or (
        g.name == "4K" and start == 3 and not f.ttst
    ):
        return start, f"{text}: start level {start} is not available"
    low = g.level_shift(start) + 1
    high = low - 1 + g.stride + 4
    if not low <= 64 - tsz <= high:
        return start, f"{text}: start level {start} does not fit T0SZ={tsz}"
    return start, ""


def stage2_start(vtcr: int) -> int | None:
    """The start level that VTCR_EL2 asks for; None where its SL0 or its TG0 is reserved."""
    layout = REGISTERS["VTCR_EL2"]
    g = _GRANULE_OF_TG0.get(layout["TG0"].get(vtcr))
    if g is None:
        return None
    return _STAGE2_START[g.name].get(_start_fields(vtcr, g, bool(layout["DS"].get(vtcr))))


def _start_fields(vtcr: int, g: Granule, ds: bool) -> tuple[int, int]:
    """(SL2, SL0) of VTCR_EL2."""
    layout = REGISTERS["VTCR_EL2"]
    return layout["SL2"].get(vtcr) if ds and g.shift == 12 else 0, layout["SL0"].get(vtcr)


def _stage2(registers: Mapping[str, int], f: Features, secure: bool) -> WalkParams:
    """Stage 2 from VTCR_EL2 and VTTBR_EL2; `InvalidError` where it is not walkable."""
    vtcr = _need(registers, "VTCR_EL2")
    layout = REGISTERS["VTCR_EL2"]
    _refuse_bits(STAGE2, registers)
    tg = layout["TG0"].get(vtcr)
    g = _GRANULE_OF_TG0.get(tg)
    if g is None:
        raise InvalidError(f"VTCR_EL2.TG0={tg:#04b} is reserved")
    if g.name not in f.granules_stage2:
        raise InvalidError(f"VTCR_EL2.TG0={tg:#04b}: the CPU has no {g.name} granule at stage 2")
    ds = bool(layout["DS"].get(vtcr)) and g.name in f.lpa2_stage2
    tsz = layout["T0SZ"].get(vtcr)
    lpa = g.shift == 16 and f.pa_bits == 52
    # Stage 2 has no FEAT_LVA: AArch64.S2MinTxSZ goes by the physical address size.
    _check_size("VTCR_EL2", "T0SZ", tsz, g, ds or lpa, f.ttst)
    ps = layout["PS"].get(vtcr)
    output = _output_bits("VTCR_EL2", "PS", ps, f)
    start, error = _stage2_start(vtcr, g, ds, tsz, f)
    size = root_bytes(g, 64 - tsz, start)
    hcr = registers.get("HCR_EL2", 0)
    return walk_params(
        "VTTBR_EL2",
        g,
        64 - tsz,
        _base_address(_need(registers, "VTTBR_EL2"), size, ds or (lpa and ps == 6)),
        stage=2,
        ds=ds,
        lpa=lpa,
        output_bits=output,
        start=start,
        sh=layout["SH0"].get(vtcr) if ds else None,
        ha=f.hafdbs >= 1 and bool(layout["HA"].get(vtcr)),
        hd=f.hafdbs >= 2 and bool(layout["HA"].get(vtcr)) and bool(layout["HD"].get(vtcr)),
        el0=True,
        xnx=f.xnx,
        fwb=f.fwb and bool(hcr >> 46 & 1),
        secure=secure,
        start_error=error,
    )


# Bits that ask for what is not modelled: (field, what it asks for). EL1 and EL2&0 have them in
# TCR2_ELx. EL2 has no EL0, and D128 is without effect there (TTBR0_EL2, E2H=0); EL3 has them in
# TCR_EL3.
_PNCH = ("PnCH", "the Protected bit (FEAT_THE)")
_PIE = ("PIE", "permission indirection (FEAT_S1PIE)")
_POE = ("POE", "permission overlays (FEAT_S1POE)")
_E0POE = ("E0POE", "permission overlays (FEAT_S1POE)")
_AIE = ("AIE", "the attribute index extension (FEAT_AIE)")
_D128 = ("D128", "128-bit descriptors (FEAT_D128)")
_EE = ("EE", "a big-endian table walk")
_NV1 = ("NV1", "nested virtualization's EL1 descriptors (FEAT_NV)")

_UNMODELLED: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    EL1: {
        "TCR2_EL1": (_D128, _PIE, _POE, _E0POE, _AIE, _PNCH),
        "SCTLR_EL1": (_EE,),
        "HCR_EL2": (_NV1,),
    },
    EL20: {"TCR2_EL2": (_D128, _PIE, _POE, _E0POE, _AIE, _PNCH), "SCTLR_EL2": (_EE,)},
    EL2: {"TCR2_EL2": (_PIE, _POE, _AIE, _PNCH), "SCTLR_EL2": (_EE,)},
    EL3: {"TCR_EL3": (_D128, _PIE, _POE, _AIE, _PNCH), "SCTLR_EL3": (_EE,)},
    STAGE2: {
        "VTCR_EL2": (
            _D128,
            ("S2PIE", "permission indirection (FEAT_S2PIE)"),
            ("S2POE", "permission overlays (FEAT_S2POE)"),
            ("AssuredOnly", "the AssuredOnly check (FEAT_THE)"),
            ("TL0", "the TopLevel check (FEAT_THE)"),
            ("TL1", "the TopLevel check (FEAT_THE)"),
        )
    },
}


def _refuse_bits(name: str, registers: Mapping[str, int]) -> None:
    for register, rows in _UNMODELLED[name].items():
        value = registers.get(register, 0)
        for bit, what in rows:
            if value and REGISTERS[register][bit].get(value):
                raise UnsupportedError(f"{register}.{bit}=1: {what} is not modelled")


def _refuse_unmodelled(name: str, registers: Mapping[str, int]) -> None:
    _refuse_bits(name, registers)
    if registers.get("GPCCR_EL3", 0) >> 16 & 1:
        raise UnsupportedError(
            "GPCCR_EL3.GPC=1: granule protection checks (FEAT_RME) are not modelled"
        )
    if registers.get("SCR_EL3", 0) >> 62 & 1:
        raise UnsupportedError("SCR_EL3.NSE=1: Realm and Root state (FEAT_RME) are not modelled")
    if name == EL1 and "HCR_EL2" in registers and not registers["HCR_EL2"] >> 31 & 1:
        raise UnsupportedError("HCR_EL2.RW=0: EL1 is AArch32, whose tables are not modelled")


def _is_secure(name: str, registers: Mapping[str, int]) -> bool:
    """Secure state: at EL3, and below it while SCR_EL3.NS is 0 (no SCR_EL3: Non-secure)."""
    return name == EL3 or not registers.get("SCR_EL3", 1) & 1


def _stage2_in_force(name: str, registers: Mapping[str, int], secure: bool) -> bool:
    """HCR_EL2.VM, or DC which implies it; TGE=1 and a disabled Secure EL2 turn it off."""
    hcr, scr = registers.get("HCR_EL2", 0), registers.get("SCR_EL3", 1)
    if name != EL1 or hcr >> 27 & 1 or (secure and not scr >> 18 & 1):
        return False
    return bool(hcr & 1 or hcr >> 12 & 1)


def _top_byte(
    controls: tuple[_Controls, ...], registers: Mapping[str, int]
) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Whether each half ignores the top byte: for data (TBIn), for fetches (TBIn and not TBIDn)."""
    data, fetch = [], []
    for c in controls:
        layout, tcr = REGISTERS[c.layout], registers.get(c.tcr, 0)
        data.append(bool(layout[c.tbi].get(tcr)))
        fetch.append(data[-1] and not layout[c.tbid].get(tcr))
    return tuple(data), tuple(fetch)


def _attempt(
    c: _Controls, registers: Mapping[str, int], f: Features, el: int, el0: bool, secure: bool
) -> Translated:
    try:
        return _half(c, registers, f, el, el0, secure)
    except InvalidError as error:
        if c.epd and REGISTERS[c.layout][c.epd].get(registers.get(c.tcr, 0)):
            # EPDn=1: never walked, every address faults at level 0 whatever the other controls say.
            return walk_params(c.ttbr, GRANULES["4K"], 48, 0, upper=c.upper, epd=True)
        return error


def regime_of(registers: Mapping[str, int], name: str, features: Features | None = None) -> Regime:
    """The regime *name* (`EL1`, `EL20`, `EL2`, `EL3`) as *registers* program it.

    Registers carry their Arm names. A missing SCTLR_ELx is taken as MMU on (tables given by hand);
    a missing MAIR_ELx as all zero. *features* default to what the ID registers tell. Raises
    `UnsupportedError` for a regime that asks for what is not modelled, `InvalidError` for an
    unknown name; a half that is invalid raises when it is used.
    """
    if name not in _REGIMES:
        raise InvalidError(f"regime {name!r}: must be one of {', '.join(_REGIMES)}")
    _refuse_unmodelled(name, registers)
    f = features_of(registers) if features is None else features
    controls, el, el0 = _REGIMES[name]
    secure = _is_secure(name, registers)
    halves = [_attempt(c, registers, f, el, el0, secure) for c in controls]
    hcr, sctlr = registers.get("HCR_EL2", 0), registers.get(f"SCTLR_EL{el}", 1)
    default_cache = name == EL1 and bool(hcr >> 12 & 1) and not hcr >> 27 & 1
    stage1_off = default_cache or (name == EL1 and bool(hcr >> 27 & 1) and not hcr >> 34 & 1)
    fetch_attr = NORMAL_WT_RA if sctlr >> 12 & 1 else NORMAL_NC
    data_top_byte, fetch_top_byte = _top_byte(controls, registers)
    return Regime(
        name,
        bool(sctlr & 1) and not stage1_off,
        halves[0],
        halves[1] if len(halves) > 1 else None,
        f.pa_bits,
        secure,
        _stage2_of_regime(name, registers, f, secure),
        protected_walk=bool(hcr >> 2 & 1),
        cache_disabled=bool(hcr >> 32 & 1),
        fetch_cache_disabled=bool(hcr >> 33 & 1),
        default_attr=NORMAL_WB if default_cache else DEVICE_NGNRNE,
        fetch_attr=NORMAL_WB if default_cache else fetch_attr,
        top_byte_ignored=data_top_byte,
        fetch_top_byte_ignored=fetch_top_byte,
    )


def _stage2_of_regime(
    name: str, registers: Mapping[str, int], f: Features, secure: bool
) -> Translated | None:
    if not _stage2_in_force(name, registers, secure):
        return None
    try:
        return _stage2(registers, f, secure)
    except UnsupportedError:
        raise
    except InvalidError as error:
        return error


def stage2_of(registers: Mapping[str, int], features: Features | None = None) -> WalkParams:
    """Stage 2 by itself, whether or not HCR_EL2.VM enables it; raises `InvalidError`."""
    f = features_of(registers) if features is None else features
    return _stage2(registers, f, not registers.get("SCR_EL3", 1) & 1)


def current_regime(registers: Mapping[str, int], el: int) -> str:
    """The name of the regime that translates at exception level *el* under these registers.

    EL2 with HCR_EL2.E2H is EL2&0, and so is EL0 when TGE is also set.
    """
    hcr = registers.get("HCR_EL2", 0)
    e2h, tge = bool(hcr >> 34 & 1), bool(hcr >> 27 & 1)
    if el == 3:
        return EL3
    if el == 2:
        return EL20 if e2h else EL2
    if el in (0, 1):
        return EL20 if el == 0 and e2h and tge else EL1
    raise InvalidError(f"exception level {el}: must be 0 to 3")
