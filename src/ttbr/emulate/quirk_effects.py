"""What the quirks do: functions that turn our side of a comparison into the emulator's.

Four kinds, in the order in which they are applied (`ttbr.emulate.quirks.Quirk` names them):
other registers; other walk parameters; another answer; another PAR_EL1 of a mapping.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from ttbr.arch.attributes import (
    NORMAL_NC,
    PW,
    UW,
    combine_memory,
    combine_shareability,
    is_device,
    reported_shareability,
)
from ttbr.arch.bits import Field, ones
from ttbr.arch.descriptors import BLOCK, OA_LPA2, PAGE, output_address
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.features import Features
from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import Level, Regime, WalkParams
from ttbr.arch.registers import REGISTERS
from ttbr.record import replace
from ttbr.walk import AT_OPERATIONS, Mapping, Step

__all__ = [
    "Answer",
    "Asked",
    "Registers",
    "UNICORN_PAMAX",
    "blocks_everywhere",
    "checked_raw_blocks",
    "clamped_size",
    "device_of_nibbles",
    "faulting_size",
    "force_write_back",
    "granule_64k_or_4k",
    "ignored_tge",
    "largest_output",
    "legal_size_4k",
    "no_default_cacheability",
    "no_high_output_bits",
    "no_size_check",
    "not_transient",
    "obeyed_hpd",
    "raw_block_address",
    "raw_shareability",
    "small_root",
    "stage1_level",
    "stage1_level_translation",
    "stage2_start_by_output",
    "stage2_start_by_pamax",
    "update_needs_write",
]

Registers = dict[str, int]
Answer = Mapping | Fault

HCR_TGE, HCR_E2H = 1 << 27, 1 << 34
AF, AP2_DBM, S2AP_WRITE = 1 << 10, 1 << 51 | 1 << 7, 1 << 7
UNICORN_PAMAX = 44
ANY_LEGAL_SIZE = 25  # of T0SZ and T1SZ, for every granule


@dataclass(frozen=True, slots=True)
class Asked:
    """The question to which an answer belongs."""

    regime: Regime
    va: int
    operation: str


def _layout(register: str, registers: Registers) -> str:
    e2h = registers.get("HCR_EL2", 0) & HCR_E2H
    return "TCR_EL2_E2H" if register == "TCR_EL2" and e2h else register


def _edit(
    registers: Registers, names: tuple[str, ...], change: Callable[[str, Field, int], int]
) -> Registers:
    """*registers* with ``change(register, field, value)`` in each TCR field of *names*."""
    edited = dict(registers)
    for register in ("TCR_EL1", "TCR_EL2", "VTCR_EL2"):
        if register in registers:
            for f in REGISTERS[_layout(register, registers)].fields:
                if f.name in names:
                    value = change(register, f, f.get(registers[register]))
                    edited[register] = f.put(edited[register], value)
    return edited


def clamped_size(registers: Registers, features: Features) -> Registers:
    """T0SZ and T1SZ brought into 16 to 39."""
    return _edit(registers, ("T0SZ", "T1SZ"), lambda r, f, value: min(max(value, 16), 39))


def _granules(registers: Registers, instead: dict[tuple[str, int], int]) -> Registers:
    return _edit(registers, ("TG0", "TG1"), lambda r, f, v: instead.get((f.name, v), v))


def granule_64k_or_4k(registers: Registers, features: Features) -> Registers:
    """The reserved TG0=3 as 64K, the reserved TG1=0 as 4K."""
    return _granules(registers, {("TG0", 3): 1, ("TG1", 0): 2})


def largest_output(registers: Registers, features: Features) -> Registers:
    """The reserved PS=7 as 52 bits."""
    return _edit(registers, ("PS", "IPS"), lambda r, f, value: min(value, 6))


def ignored_tge(registers: Registers, features: Features) -> Registers:
    """HCR_EL2.TGE cleared, where E2H is 0."""
    hcr = registers.get("HCR_EL2", 0)
    return registers if hcr & HCR_E2H else registers | {"HCR_EL2": hcr & ~HCR_TGE}


def legal_size_4k(registers: Registers, features: Features) -> Registers:
    """A reserved granule as 4K, and some legal size for each that is out of range.

    `faulting_size` then makes a fault of each size that changed.
    """
    registers = _granules(registers, {("TG0", 3): 0, ("TG1", 0): 2})

    def legal(register: str, f: Field, value: int) -> int:
        layout, tcr = REGISTERS[_layout(register, registers)], registers[register]
        large = layout["TG" + f.name[1]].get(tcr) == (1 if f.name == "T0SZ" else 3)
        wide = features.lva if large else features.lpa2 and layout["DS"].get(tcr)
        most = (47 if large else 48) if features.ttst else 39
        return value if (12 if wide else 16) <= value <= most else ANY_LEGAL_SIZE

    return _edit(registers, ("T0SZ", "T1SZ"), legal)


def faulting_size(p: WalkParams, registers: Registers) -> WalkParams:
    """Every walk faults where the size in use is not the one in *registers*."""
    tcr = "VTCR_EL2" if p.stage == 2 else "TCR" + p.name[5:]
    size = registers[tcr] >> (16 if p.upper else 0) & 63
    return p if size == 64 - p.input_bits else replace(p, start_error="TxSZ is out of range")


def _upper_levels(p: WalkParams, change: Callable[[Level], Level]) -> WalkParams:
    rows = tuple(row if row.level == LAST_LEVEL else change(row) for row in p.levels)
    return replace(p, levels=rows)


def blocks_everywhere(p: WalkParams, registers: Registers) -> WalkParams:
    """Blocks at every level but the last."""
    return _upper_levels(p, lambda row: replace(row, may_be_block=True))


def raw_block_address(p: WalkParams, registers: Registers) -> WalkParams:
    """The RES0 bits below a block's address count as address."""
    mask = p.form.low_mask(p.granule.shift)
    return _upper_levels(p, lambda row: replace(row, leaf_mask=mask))


def no_size_check(p: WalkParams, registers: Registers) -> WalkParams:
    """No Address size faults."""
    return replace(p, output_bits=64)


def no_high_output_bits(p: WalkParams, registers: Registers) -> WalkParams:
    """Below 52 bits of output, address bits [51:50] (LPA2), [51:48] (LPA, TTBR) are not there."""
    if p.output_bits > 48 or not p.form.wide:
        return p
    form = replace(p.form, high_mask=0, high_shift=0)
    return replace(p, form=form, root=p.root & ones(48))


def obeyed_hpd(p: WalkParams, registers: Registers) -> WalkParams:
    """TCR.HPD in effect, whether or not the CPU has FEAT_HPDS."""
    if p.stage == 2:
        return p
    tcr = "TCR" + p.name[5:]
    layout = REGISTERS[_layout(tcr, registers)]
    name = "HPD" if any(f.name == "HPD" for f in layout.fields) else f"HPD{int(p.upper)}"
    return replace(p, hpd=bool(layout[name].get(registers[tcr])))


def small_root(p: WalkParams, registers: Registers) -> WalkParams:
    """A root below 64 bytes is aligned to its size only, with FEAT_LPA2 too."""
    if p.root_size >= 64 or p.form is not OA_LPA2:
        return p
    ttbr = registers[p.name]
    high = (ttbr >> 2 & 0xF) << 48 if p.output_bits > 48 else 0
    return replace(p, root=(ttbr & ones(48) | high) & ~(p.root_size - 1))


def _stage2_start(p: WalkParams, size: int) -> WalkParams:
    """The check of both emulators on the start level, with *size* the output size they use."""
    if p.stage != 2:
        return p
    needs = {("64K", 1): 43, ("16K", 1): 41, ("4K", 0): 43}.get((p.granule.name, p.start_level), 0)
    refused = p.start_level == 0 and p.granule.name != "4K"
    refused |= p.start_level == -1 and p.input_bits != 52
    if refused or size < needs or p.input_bits > size:
        return replace(p, start_error="start level refused")
    return p


def stage2_start_by_output(p: WalkParams, registers: Registers) -> WalkParams:
    """The start level of stage 2 checked against VTCR_EL2.PS."""
    return _stage2_start(p, p.output_bits)


def stage2_start_by_pamax(p: WalkParams, registers: Registers) -> WalkParams:
    """The start level of stage 2, and its input size, checked against 44 bits."""
    return _stage2_start(p, UNICORN_PAMAX)


def _steps(answer: Answer) -> tuple[Step, ...]:
    return cast("tuple[Step, ...]", answer.steps)


def stage1_level(answer: Answer, asked: Asked) -> Answer:
    """A stage 2 fault on a stage 1 walk at the level where stage 1 stood."""
    if not isinstance(answer, Fault) or not answer.s1ptw:
        return answer
    done = sum(step.stage == 1 for step in _steps(answer))
    return replace(answer, level=asked.regime.half(asked.va).start_level + done)


def stage1_level_translation(answer: Answer, asked: Asked) -> Answer:
    """`stage1_level`, and the kind always a Translation fault."""
    if not isinstance(answer, Fault) or not answer.s1ptw:
        return answer
    return stage1_level(replace(answer, kind=FaultKind.TRANSLATION), asked)


def checked_raw_blocks(answer: Answer, asked: Asked) -> Answer:
    """An Address size fault at the first block whose address is too large with its RES0 bits."""
    regime, steps = asked.regime, _steps(answer)
    for n, step in enumerate(steps):
        if step.kind != BLOCK:
            continue
        p = regime.half(asked.va) if step.stage == 1 else cast("WalkParams", regime.stage2)
        if output_address(step.descriptor, p.form, p.granule.shift) >> p.output_bits:
            leaf_seen = any(s.stage == 1 and s.kind in (BLOCK, PAGE) for s in steps[:n])
            s1ptw = step.stage == 2 and regime.mmu_on and not leaf_seen
            seen = steps[: n + 1]
            kind = FaultKind.ADDRESS_SIZE
            return Fault(kind, step.level, asked.va, step.stage, s1ptw, steps=seen)
    return answer


def update_needs_write(answer: Answer, asked: Asked) -> Answer:
    """A stage 2 fault when the stage 1 leaf is to be updated and stage 2 forbids to write there.

    Stage 1 faults come before the update.
    """
    if asked.regime.stage2 is None or not asked.regime.mmu_on:
        return answer
    if isinstance(answer, Fault) and (answer.stage == 1 or answer.s1ptw):
        return answer
    steps = _steps(answer)
    leaf = max((n for n, step in enumerate(steps) if step.stage == 1), default=-1)
    if leaf < 1 or steps[leaf].kind not in (BLOCK, PAGE):
        return answer
    half = asked.regime.half(asked.va)
    descriptor, fetch = steps[leaf].descriptor, steps[leaf - 1].descriptor
    store = AT_OPERATIONS[asked.operation].need in (PW, UW)
    accessed = half.ha and not descriptor & AF
    dirtied = half.hd and store and descriptor & AP2_DBM == AP2_DBM
    if fetch & S2AP_WRITE or not (accessed or dirtied):
        return answer
    kind, level = FaultKind.PERMISSION, steps[leaf].level
    return Fault(kind, level, asked.va, 2, s1ptw=True, steps=steps[:leaf])


def _stage1_attr(mapping: Mapping, asked: Asked) -> int:
    return mapping.leaf.attr if mapping.leaf is not None else asked.regime.default_attr


def _with_attr(par: int, attr: int) -> int:
    return par & ones(56) | attr << 56


def raw_shareability(par: int, mapping: Mapping, asked: Asked) -> int:
    """SH as stage 1 holds it, 0 with the MMU off; with stage 2 the combination of such."""
    sh = mapping.combined_shareability  # the walk's own, which is to be compared
    if mapping.leaf is None:
        sh = combine_shareability(0, mapping.leaf2.shareability) if mapping.leaf2 else 0
    if mapping.leaf2 is not None:
        sh = reported_shareability(par >> 56, sh)
    return par & ~(3 << 7) | sh << 7


def not_transient(par: int, mapping: Mapping, asked: Asked) -> int:
    """Write-Through without the Transient hint, where stage 1 was transient Write-Back."""
    attr = par >> 56
    if mapping.leaf is None or mapping.leaf2 is None or is_device(attr):
        return par
    for low in (0, 4):
        if attr >> low & 0b1100 == 0 and mapping.leaf.attr >> low & 0b1100 == 0b0100:
            attr |= 0b1000 << low
    return _with_attr(par, attr)


def device_of_nibbles(par: int, mapping: Mapping, asked: Asked) -> int:
    """The inner nibbles of both stages taken as Device types, when one of them is Device."""
    if mapping.leaf2 is None or mapping.leaf2.params.fwb:
        return par
    s1, s2 = _stage1_attr(mapping, asked), mapping.leaf2.attr
    if is_device(s1) == is_device(s2):
        return par
    if asked.regime.cache_disabled and not is_device(s2):
        s2 = NORMAL_NC
    low = (s1 & 0xF, s2 & 0xF)
    return _with_attr(par, next((n for n in (0x0, 0x4, 0x8) if n in low), 0xC))


def force_write_back(par: int, mapping: Mapping, asked: Asked) -> int:
    """FEAT_S2FWB without combining Device types, without CD, and with MemAttr[3] decoded."""
    if mapping.leaf2 is None or not mapping.leaf2.params.fwb:
        return par
    memattr = mapping.leaf2.descriptor >> 2 & 0xF
    if memattr < 4:
        return _with_attr(par, memattr << 2)
    if not 5 <= memattr <= 7:
        return _with_attr(par, 0)
    return _with_attr(par, combine_memory(_stage1_attr(mapping, asked), memattr, fwb=True))


def no_default_cacheability(par: int, mapping: Mapping, asked: Asked) -> int:
    """Device-nGnRnE with stage 1 off, whatever HCR_EL2.DC says (AT of stage 1 only)."""
    return par if mapping.leaf is not None or mapping.leaf2 is not None else _with_attr(par, 0)
