"""The regime of tables to build: `WalkParams` from plain values, and the registers that say it.

`registers_of` gives TTBR, TCR or VTCR, MAIR and SCTLR under their Arm names;
`ttbr.arch.regime.regime_of` (or `stage2_of`) reads them back into equal parameters, with the
features of `features_of_params`.
"""

from ttbr.arch.bits import ones
from ttbr.arch.descriptors import OA_64K_LPA, OA_LPA2
from ttbr.arch.features import PA_BITS, Features
from ttbr.arch.geometry import LAST_LEVEL, Granule, level_count
from ttbr.arch.geometry import granule as granule_called
from ttbr.arch.regime import (
    EL1,
    EL2,
    EL3,
    EL20,
    STAGE2,
    WalkParams,
    regime_of,
    stage2_of,
    walk_params,
)
from ttbr.arch.registers import REGISTERS
from ttbr.errors import InvalidError

__all__ = [
    "features_needed",
    "features_of_params",
    "regime_name",
    "registers_of",
    "stage2_start",
    "table_params",
]

_EL = {EL1: 1, EL20: 2, EL2: 2, EL3: 3}
INNER_SHAREABLE, WRITE_BACK = 0b11, 0b01
_PS = {width: ps for ps, width in PA_BITS.items()}
_M, _C, _I, _WXN, _EPAN = 1, 1 << 2, 1 << 12, 1 << 19, 1 << 57
# RES1 bits of SCTLR before the features that give them a meaning: LSMAOE, nTLSMD, SPAN, EIS, TSCXT,
# EOS (EL1 layout); bits 29, 28, 23, 22, 18, 16, 11, 5, 4 (EL2 and EL3), Arm ARM D24.2.
_SCTLR_EL1, _SCTLR_EL2 = 0x30D0_0800, 0x30C5_0830
_HCR_VM, _HCR_RW, _HCR_E2H, _HCR_FWB = 1, 1 << 31, 1 << 34, 1 << 46


def stage2_start(g: Granule, input_bits: int) -> int:
    """The start level of stage 2 that concatenates up to 16 tables, which is what Linux takes.

    Up to four bits beyond a full table are resolved by concatenation (D8.2.7; Linux,
    arch/arm64/include/asm/stage2_pgtable.h, ``stage2_pgtable_levels``).
    """
    return min(LAST_LEVEL + 1 - level_count(g, max(input_bits - 4, g.shift + 1)), LAST_LEVEL)


def table_params(
    regime: str,
    granule: str | Granule = "4K",
    input_bits: int = 48,
    *,
    upper: bool = False,
    ds: bool = False,
    lpa: bool = False,
    output_bits: int | None = None,
    start: int | None = None,
    **flags: object,
) -> WalkParams:
    """Parameters of tables in *regime* (`EL1`, `EL20`, `EL2`, `EL3`, `STAGE2`), root still 0.

    *ds* is the 52-bit format of 4K and 16K (FEAT_LPA2), *lpa* that of 64K (FEAT_LPA). *start* is
    the start level of stage 2, `stage2_start` when not given. *flags* are fields of `WalkParams`
    (``wxn``, ``ha``, ``fwb``, ``hpd``, ``mair`` ...). `InvalidError` where no registers say it.
    """
    g = granule_called(granule) if isinstance(granule, str) else granule
    if regime not in _EL and regime != STAGE2:
        raise InvalidError(f"regime {regime!r}: must be one of {', '.join((*_EL, STAGE2))}")
    if upper and regime not in (EL1, EL20):
        raise InvalidError(f"{regime} has no upper range")
    if ds and g.shift == 16:
        raise InvalidError("ds: the 64K granule has no FEAT_LPA2 format; its 52-bit format is lpa")
    if lpa and g.shift != 16:
        raise InvalidError(f"lpa: the {g.name} granule has no FEAT_LPA format; it has ds")
    if start is not None and regime != STAGE2:
        raise InvalidError("start: only stage 2 chooses its start level")
    _check_bits(g, input_bits, output_bits)
    if regime == STAGE2:
        name, stage = "VTTBR_EL2", 2
        start = stage2_start(g, input_bits) if start is None else start
    else:
        name, stage = f"TTBR{int(upper)}_EL{_EL[regime]}", 1
    said: dict[str, object] = {"el0": regime in (EL1, EL20, STAGE2), "secure": regime == EL3}
    if ds:
        said["sh"] = INNER_SHAREABLE
    params = walk_params(
        name, g, input_bits, 0, stage=stage, upper=upper, ds=ds, lpa=lpa,
        output_bits=output_bits, start=start, **said | flags,
    )  # fmt: skip
    _read_back(params)
    return params


def _check_bits(g: Granule, input_bits: int, output_bits: int | None) -> None:
    if not g.shift < input_bits <= 52:
        raise InvalidError(f"input size of {input_bits} bits: must be {g.shift + 1} to 52")
    if output_bits is not None and output_bits not in _PS:
        raise InvalidError(f"output size of {output_bits} bits: must be {', '.join(map(str, _PS))}")


def regime_name(p: WalkParams) -> str:
    """The regime that parameters belong to, by their base register and EL0."""
    if p.stage == 2:
        return STAGE2
    if p.name.endswith("_EL2"):
        return EL20 if p.el0 else EL2
    return EL1 if p.name.endswith("_EL1") else EL3


def features_of_params(p: WalkParams) -> Features:
    """Features under which the registers of *p* mean *p*: all, but for those that *p* denies.

    The 64K format depends on PAMax alone (FEAT_LPA), so 48-bit descriptors need a 48-bit PAMax.
    """
    narrow = p.granule.shift == 16 and p.form is not OA_64K_LPA
    return Features(pa_bits=48 if narrow else 52, xnx=p.xnx)


def features_needed(p: WalkParams) -> tuple[str, ...]:
    """The features without which a CPU does not take the registers of *p*.

    T0SZ above 39 and stage 2 of 4K from level 3 on are FEAT_TTST; more than 48 bits of input are
    FEAT_LVA at stage 1 with 64K, and part of the 52-bit formats elsewhere (TCR_EL1.T0SZ,
    VTCR_EL2.SL0).
    """
    small_start = p.stage == 2 and p.granule.shift == 12 and p.start_level == LAST_LEVEL
    rows = {
        "FEAT_VHE": regime_name(p) == EL20,
        "FEAT_SEL2": p.secure and regime_name(p) in (EL2, EL20),
        "FEAT_TTST": p.input_bits < 64 - 39 or small_start,
        "FEAT_LVA": p.stage == 1 and p.granule.shift == 16 and p.input_bits > 48,
        "FEAT_LPA": p.form is OA_64K_LPA and p.output_bits == 52,
        "FEAT_LPA2": p.form is OA_LPA2,
        "FEAT_HAFDBS": p.ha or p.hd,
        "FEAT_HPDS": p.hpd,
        "FEAT_PAuth": p.tbid,
        "FEAT_E0PD": p.e0pd,
        "FEAT_PAN3": p.pan3,
        "FEAT_S2FWB": p.fwb,
    }
    return tuple(name for name, needed in rows.items() if needed)


def registers_of(*params: WalkParams) -> dict[str, int]:
    """The registers for one half, both halves of a regime, or those and stage 2.

    TCR walks are Write-Back cacheable and Inner Shareable; a half that is not given has EPD set.
    SCTLR_ELx is a suggestion: MMU and caches on, besides its RES1 bits. Raises `InvalidError` when
    two halves do not belong together.
    """
    halves = [p for p in params if p.stage == 1]
    stages2 = [p for p in params if p.stage == 2]
    registers: dict[str, int] = {}
    if len(stages2) > 1:
        raise InvalidError("two stage 2 parameters are given for one set of registers")
    if halves:
        registers |= _stage1_registers(halves)
    if stages2:
        registers |= _stage2_registers(stages2[0])
        registers["HCR_EL2"] |= registers.get("SCTLR_EL1", 0) and _HCR_RW
    return registers


def _shared(halves: list[WalkParams], field: str) -> int:
    values = {getattr(p, field) for p in halves}
    if len(values) > 1:
        raise InvalidError(f"the halves disagree about {field}")
    return int(values.pop())


def _stage1_registers(halves: list[WalkParams]) -> dict[str, int]:
    regimes = {regime_name(p) for p in halves}
    if len(regimes) > 1 or len({p.upper for p in halves}) < len(halves):
        raise InvalidError(f"{', '.join(p.name for p in halves)} do not belong together")
    regime = regimes.pop()
    el = _EL[regime]
    tcr_name = f"TCR_EL{el}"
    layout = REGISTERS["TCR_EL2_E2H" if regime == EL20 else tcr_name]
    values: dict[str, int] = {"DS": int(any(p.form is OA_LPA2 for p in halves))}
    values["HA"], values["HD"] = _shared(halves, "ha"), _shared(halves, "hd")
    values["IPS" if regime in (EL1, EL20) else "PS"] = _PS[_shared(halves, "output_bits")]
    if regime in (EL1, EL20):
        # A half without tables has the other's granule: TG1 0b00 is reserved even with EPD1.
        g = halves[0].granule
        values |= {"EPD0": 1, "EPD1": 1, "TG0": g.tg0, "TG1": g.tg1}
        for p in halves:
            values |= _half_fields(p, str(int(p.upper)), p.granule.tg1 if p.upper else None)
    else:
        values |= _half_fields(halves[0], "", None)
    registers = {p.name: _base_field(p) for p in halves}
    registers[tcr_name] = layout.encode(**values)
    registers[f"MAIR_EL{el}"] = _shared(halves, "mair")
    sctlr = _SCTLR_EL1 if regime in (EL1, EL20) else _SCTLR_EL2
    sctlr |= _M | _C | _I | (_WXN if _shared(halves, "wxn") else 0)
    registers[f"SCTLR_EL{el}"] = sctlr | (_EPAN if _shared(halves, "pan3") else 0)
    if regime == EL20:
        registers["HCR_EL2"] = _HCR_E2H | _HCR_RW
    if regime != EL3 and _shared(halves, "secure"):
        registers["SCR_EL3"] = 1 << 18 | 1 << 10  # EEL2, RW; NS=0
    return registers


def _half_fields(p: WalkParams, n: str, tg1: int | None) -> dict[str, int]:
    """The TCR fields of one half; *n* is the digit in names of controls that both halves have."""
    digit = n or "0"
    fields = {
        f"T{digit}SZ": 64 - p.input_bits,
        f"TG{digit}": p.granule.tg0 if tg1 is None else tg1,
        f"SH{digit}": INNER_SHAREABLE if p.sh is None else p.sh,
        f"ORGN{digit}": WRITE_BACK,
        f"IRGN{digit}": WRITE_BACK,
        f"TBI{n}": int(p.tbi),
        f"TBID{n}": int(p.tbid),
        f"HPD{n}": int(p.hpd),
    }
    if n:
        fields |= {f"EPD{n}": int(p.epd), f"E0PD{n}": int(p.e0pd)}
    return fields


def _stage2_registers(p: WalkParams) -> dict[str, int]:
    ds = p.form is OA_LPA2
    sl2, sl0 = _start_fields(p, ds)
    vtcr = REGISTERS["VTCR_EL2"].encode(
        T0SZ=64 - p.input_bits,
        TG0=p.granule.tg0,
        SH0=INNER_SHAREABLE if p.sh is None else p.sh,
        ORGN0=WRITE_BACK,
        IRGN0=WRITE_BACK,
        PS=_PS[p.output_bits],
        SL0=sl0,
        SL2=sl2,
        DS=int(ds),
        HA=int(p.ha),
        HD=int(p.hd),
    )
    hcr = _HCR_VM | _HCR_RW | (_HCR_FWB if p.fwb else 0)
    return {"VTTBR_EL2": _base_field(p), "VTCR_EL2": vtcr, "HCR_EL2": hcr}


def _start_fields(p: WalkParams, ds: bool) -> tuple[int, int]:
    """(SL2, SL0) of VTCR_EL2 for the start level of *p*."""
    if p.granule.shift == 12:
        places = {2: (0, 0), 1: (0, 1), 0: (0, 2), 3: (0, 3)}
        if ds:
            places[-1] = (1, 0)
    else:
        places = {3: (0, 0), 2: (0, 1), 1: (0, 2)}
        if p.granule.shift == 14:
            places[0] = (0, 3)
    if p.start_level not in places:
        raise InvalidError(f"stage 2 with {p.granule.name} cannot start at level {p.start_level}")
    return places[p.start_level]


def root_alignment(p: WalkParams) -> int:
    """Bytes to which the root must be aligned: its size; 64 at least with a 52-bit base."""
    return max(p.root_size, 64) if _wide_base(p) else p.root_size


def _wide_base(p: WalkParams) -> bool:
    return p.form is OA_LPA2 or (p.form is OA_64K_LPA and p.output_bits == 52)


def _base_field(p: WalkParams) -> int:
    """TTBR_ELx for the root of *p*: a 52-bit base has bits [51:48] in bits 5:2."""
    if p.root & (root_alignment(p) - 1):
        raise InvalidError(
            f"root {p.root:#x} is not aligned to {root_alignment(p):#x}, as {p.name} needs"
        )
    if p.root >> (52 if _wide_base(p) else 48):
        raise InvalidError(f"root {p.root:#x} does not fit in {p.name}")
    return p.root & ones(48) | p.root >> 48 << 2


def _read_back(p: WalkParams) -> None:
    """Refuse parameters that the registers cannot say, in the words of the regime."""
    registers, features = registers_of(p), features_of_params(p)
    if p.stage == 2:
        found = stage2_of(registers, features)
        if found.start_error:
            raise InvalidError(found.start_error)
    else:
        regime = regime_of(registers, regime_name(p), features)
        half = regime.upper if p.upper else regime.lower
        if isinstance(half, InvalidError):
            raise half
        assert half is not None
        found = half
    for field in type(p).__match_args__:
        if field != "levels" and getattr(found, field) != getattr(p, field):
            raise InvalidError(
                f"{field}={getattr(p, field)}: the registers of {p.name} give "
                f"{getattr(found, field)}"
            )
