"""Translate one address for one access, with every step (Arm ARM AArch64.S1Walk, S2Walk).

`translate` returns a `Mapping` or a `ttbr.arch.faults.Fault`; it raises only for an invalid
configuration (`InvalidError` of the half that is asked for).
"""

from collections.abc import Callable

from ttbr.arch.attributes import (
    NON_SHAREABLE,
    NORMAL_NC,
    NORMAL_WB,
    OUTER_SHAREABLE,
    PR,
    PW,
    PX,
    UR,
    UW,
    UX,
    combine_memory,
    combine_shareability,
    is_device,
    reported_shareability,
    stage1_permissions,
    stage2_memory,
    stage2_permissions,
)
from ttbr.arch.descriptors import BLOCK, INVALID, PAGE, RESERVED, TABLE
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import Regime, WalkParams
from ttbr.errors import InvalidError, MemoryFault
from ttbr.memory.protocol import Memory
from ttbr.record import record

__all__ = [
    "EL0_EXECUTE",
    "EL0_READ",
    "EL0_WRITE",
    "EXECUTE",
    "READ",
    "WRITE",
    "Access",
    "Leaf",
    "Mapping",
    "Step",
    "translate",
    "translate_stage2",
]


@record
class Access:
    """What is attempted: `need` is the permission bit of `ttbr.arch.attributes`, `pan` PSTATE.PAN.

    The privileged bits (PR, PW, PX) are an access at the regime's own exception level, the others
    one at EL0.
    """

    name: str
    need: int
    pan: bool = False

    @property
    def el0(self) -> bool:
        return self.need in (UR, UW, UX)

    @property
    def fetch(self) -> bool:
        """An instruction fetch."""
        return self.need in (PX, UX)


READ, WRITE, EXECUTE = Access("read", PR), Access("write", PW), Access("execute", PX)
EL0_READ, EL0_WRITE = Access("EL0 read", UR), Access("EL0 write", UW)
EL0_EXECUTE = Access("EL0 execute", UX)


@record
class Step:
    """One descriptor fetch.

    `table` is the table's address as the stage names it (an IPA for stage 1 under stage 2),
    `address` where the descriptor was read (a PA). `kind` is one of `ttbr.arch.descriptors`.
    """

    stage: int
    level: int
    table: int
    index: int
    address: int
    descriptor: int
    kind: str


@record
class Leaf:
    """Where a table walk of one stage ended: `output` is the translated address.

    `hierarchical` are bits 63:59 collected from the table descriptors (NSTable only under HPD).
    """

    params: WalkParams
    level: int
    shift: int
    output: int
    descriptor: int
    hierarchical: int

    @property
    def size(self) -> int:
        """Bytes that the block or page covers."""
        return 1 << self.shift

    @property
    def contiguous(self) -> bool:
        return bool(self.descriptor >> 52 & 1)

    @property
    def permissions(self) -> int:
        return leaf_permissions(self.params, self.descriptor, self.hierarchical)

    @property
    def attr(self) -> int:
        """Stage 1: the MAIR_ELx byte. Stage 2: what MemAttr makes of Normal Write-Back memory."""
        if self.params.stage == 2:
            return stage2_memory(self.descriptor >> 2 & 0xF, self.params.fwb)
        return self.params.mair >> (self.descriptor >> 2 & 7) * 8 & 0xFF

    @property
    def shareability(self) -> int:
        """SH[1:0] of the descriptor, or of the TCR when DS=1."""
        sh = self.params.sh
        return self.descriptor >> 8 & 3 if sh is None else sh


def leaf_permissions(p: WalkParams, descriptor: int, hierarchical: int) -> int:
    """The permission mask of a leaf; DBM makes it writable when hardware manages dirty state."""
    ap = descriptor >> 6 & 3
    dirty = p.hd and descriptor >> 51 & 1
    if p.stage == 2:
        return stage2_permissions(ap | 2 if dirty else ap, descriptor >> 53 & 3, p.xnx)
    return stage1_permissions(
        ap & 1 if dirty else ap,
        descriptor >> 54 & 1,
        descriptor >> 53 & 1,
        hierarchical >> 61 & 3,
        hierarchical >> 60 & 1,
        hierarchical >> 59 & 1,
        p.wxn,
        p.el0,
    )


@record
class Mapping:
    """A translation that succeeded.

    `leaf` is the stage 1 leaf (None with stage 1 off), `leaf2` that of stage 2 (None without).
    `ipa` is the output of stage 1; `pa` the final address (equal to `ipa` without stage 2).
    `fetch` tells that an instruction fetch was asked for.
    """

    regime: Regime
    va: int
    ipa: int
    pa: int
    leaf: Leaf | None
    leaf2: Leaf | None = None
    steps: tuple[Step, ...] = ()
    fetch: bool = False

    @property
    def size(self) -> int:
        """Bytes of the smaller leaf of the stages; 0 with both off."""
        return min((leaf.size for leaf in (self.leaf, self.leaf2) if leaf), default=0)

    @property
    def level(self) -> int | None:
        """The lookup level of the stage 1 leaf."""
        return self.leaf.level if self.leaf else None

    @property
    def permissions(self) -> int:
        """What both stages allow, as a mask of `PR` to `UX`."""
        mask = PR | PW | PX | UR | UW | UX
        for leaf in (self.leaf, self.leaf2):
            if leaf is not None:
                mask &= leaf.permissions
        return mask

    @property
    def attr(self) -> int:
        """The memory type as a MAIR byte, both stages combined."""
        attr = self.leaf.attr if self.leaf else self._flat_attr
        if self.leaf2 is None:
            return attr
        attr = combine_memory(attr, self.leaf2.descriptor >> 2 & 0xF, self.leaf2.params.fwb)
        regime = self.regime
        disabled = regime.fetch_cache_disabled if self.fetch else regime.cache_disabled
        return NORMAL_NC if disabled and not is_device(attr) else attr

    @property
    def _flat_attr(self) -> int:
        """The memory type with stage 1 off."""
        return self.regime.fetch_attr if self.fetch else self.regime.default_attr

    @property
    def combined_shareability(self) -> int:
        """SH[1:0] of both stages combined, of Device and Non-cacheable memory as it stands."""
        sh = self.leaf.shareability if self.leaf else OUTER_SHAREABLE
        if self.leaf is None and self._flat_attr == NORMAL_WB:
            sh = NON_SHAREABLE  # HCR_EL2.DC
        if self.leaf2 is not None:
            sh = combine_shareability(sh, self.leaf2.shareability)
        return sh

    @property
    def shareability(self) -> int:
        """SH[1:0] as PAR_EL1 reports it, both stages combined."""
        return reported_shareability(self.attr, self.combined_shareability)

    @property
    def non_secure(self) -> bool:
        """The output is in Non-secure space: always from Non-secure state, else NS or NSTable."""
        if not self.regime.secure:
            return True
        if self.leaf is None:
            return False
        return bool(self.leaf.descriptor >> 5 & 1 or self.leaf.hierarchical >> 63 & 1)

    def par(self) -> int:
        """PAR_EL1 after an AT instruction: ATTR[63:56], PA[51:12], RES1[11], NS[9], SH[8:7]."""
        return (
            self.attr << 56
            | self.pa & 0x000F_FFFF_FFFF_F000
            | 1 << 11
            | self.non_secure << 9
            | self.shareability << 7
        )


# NSTable is bit 63; APTable, UXNTable and PXNTable (62:59) are what TCR_ELx.HPD disables.
NSTABLE, HIERARCHICAL = 1 << 63, 0xF800_0000_0000_0000

Resolve = Callable[[int, int, list[Step]], "int | Fault"]


def table_walk(
    memory: Memory, p: WalkParams, ia: int, steps: list[Step], resolve: Resolve | None = None
) -> Leaf | Fault:
    """Walk the tables of *p* for *ia*, appending to *steps*; no permission check.

    *resolve* translates the address of a stage 1 descriptor through stage 2 (or returns its fault).
    """
    stage, form, output_bits = p.stage, p.form, p.output_bits
    high_mask, high_shift = form.high_mask, form.high_shift
    page_mask = form.low_mask(p.granule.shift)
    table, hierarchical = p.root, 0
    if p.start_error:
        return Fault(FaultKind.TRANSLATION, 0, ia, stage, reason=p.start_error)
    if table >> output_bits:
        reason = f"root {table:#x} is beyond {output_bits} bits"
        return Fault(FaultKind.ADDRESS_SIZE, 0, ia, stage, reason=reason)
    read = memory.read
    for row in p.levels:
        level = row.level
        index = ia >> row.shift & row.mask
        at = where = table + index * 8
        if resolve is not None:
            found = resolve(at, ia, steps)
            if isinstance(found, Fault):
                return found
            where = found
        try:
            d = int.from_bytes(read(where, 8), "little")
        except MemoryFault as error:
            return Fault(
                FaultKind.EXTERNAL_ABORT,
                level,
                ia,
                stage,
                reason=f"no memory at {error.address:#x}",
            )
        if d & 1 == 0:
            steps.append(Step(stage, level, table, index, where, d, INVALID))
            return Fault(FaultKind.TRANSLATION, level, ia, stage, reason="invalid descriptor")
        if d & 2 and level != LAST_LEVEL:
            steps.append(Step(stage, level, table, index, where, d, TABLE))
            table = d & page_mask | (d & high_mask) << high_shift
            hierarchical |= d
            if table >> output_bits:
                reason = f"table {table:#x} is beyond {output_bits} bits"
                return Fault(FaultKind.ADDRESS_SIZE, level, ia, stage, reason=reason)
            continue
        if bool(d & 2) != (level == LAST_LEVEL) or not row.may_be_block:
            steps.append(Step(stage, level, table, index, where, d, RESERVED))
            reason = f"reserved descriptor type 0b{d & 3:02b} at level {level}"
            return Fault(FaultKind.TRANSLATION, level, ia, stage, reason=reason)
        steps.append(Step(stage, level, table, index, where, d, PAGE if d & 2 else BLOCK))
        base = d & row.leaf_mask | (d & high_mask) << high_shift
        if base >> output_bits:
            reason = f"output {base:#x} is beyond {output_bits} bits"
            return Fault(FaultKind.ADDRESS_SIZE, level, ia, stage, reason=reason)
        if not (d & 0x400 or p.ha):
            return Fault(FaultKind.ACCESS_FLAG, level, ia, stage, reason="AF=0 and HA=0")
        offset = ia & (1 << row.shift) - 1
        hierarchical &= NSTABLE if p.hpd else HIERARCHICAL
        return Leaf(p, level, row.shift, base | offset, d, hierarchical)
    raise AssertionError("a walk ends at the last level")


def _refuse_address(p: WalkParams, va: int, access: Access | None) -> str:
    """Why *va* is outside the half *p*, or an empty string (AArch64.VAIsOutOfRange, EPD, E0PD)."""
    fetch = access is not None and access.fetch
    top = 56 if p.tbi and not (p.tbid and fetch) else 64
    above = va >> p.input_bits & (1 << top - p.input_bits) - 1
    wanted = (1 << top - p.input_bits) - 1 if p.upper else 0
    if above != wanted:
        return f"address is outside the {p.input_bits}-bit range of {p.name}"
    if p.epd:
        return f"walks with {p.name} are disabled (EPD=1)"
    if p.e0pd and access is not None and access.el0:
        return f"EL0 access with {p.name} is disabled (E0PD=1)"
    return ""


def _denied(permissions: int, access: Access, pan3: bool) -> str:
    """Why *access* is not permitted, or an empty string. PAN is for privileged data accesses."""
    if not permissions & access.need:
        return f"{access.name} is not permitted"
    if access.pan and access.need in (PR, PW) and permissions & (UR | UW | (UX if pan3 else 0)):
        return "PSTATE.PAN=1 and the page is accessible at EL0"
    return ""


def _stage2(memory: Memory, regime: Regime, ipa: int, steps: list[Step]) -> Leaf | Fault:
    p = regime.stage2
    if isinstance(p, InvalidError):
        raise p
    assert p is not None
    if ipa >> p.input_bits:
        reason = f"IPA {ipa:#x} is outside the {p.input_bits}-bit range of {p.name}"
        return Fault(FaultKind.TRANSLATION, 0, ipa, 2, reason=reason)
    return table_walk(memory, p, ipa, steps)


def _fetch_through_stage2(memory: Memory, regime: Regime) -> Resolve:
    """Stage 2 translation of stage 1 descriptor addresses: they are reads (D8.2.14), Device memory
    is refused under HCR_EL2.PTW."""

    def resolve(ipa: int, va: int, steps: list[Step]) -> int | Fault:
        leaf = _stage2(memory, regime, ipa, steps)
        if isinstance(leaf, Fault):
            return Fault(leaf.kind, leaf.level, va, 2, True, ipa, leaf.reason)
        if not leaf.permissions & PR:
            reason = "stage 2 does not permit the read of a descriptor"
            return Fault(FaultKind.PERMISSION, leaf.level, va, 2, True, ipa, reason)
        # Walks are Normal memory at stage 1, so that stage 2 alone makes them Device.
        if regime.protected_walk and is_device(leaf.attr):
            reason = "HCR_EL2.PTW=1 and the table is in Device memory"
            return Fault(FaultKind.PERMISSION, leaf.level, va, 2, True, ipa, reason)
        return leaf.output

    return resolve


def _stage1(
    memory: Memory, regime: Regime, va: int, access: Access | None, steps: list[Step]
) -> Leaf | Fault | int:
    """The stage 1 leaf or fault; with the MMU off the address itself."""
    if not regime.mmu_on:
        return _flat(regime, va, access)
    p = regime.half(va)
    refusal = _refuse_address(p, va, access)
    if refusal:
        return Fault(FaultKind.TRANSLATION, 0, va, reason=refusal)
    resolve = _fetch_through_stage2(memory, regime) if regime.stage2 is not None else None
    leaf = table_walk(memory, p, va, steps, resolve)
    if isinstance(leaf, Fault) or access is None:
        return leaf
    reason = _denied(leaf.permissions, access, p.pan3)
    if reason:
        return Fault(FaultKind.PERMISSION, leaf.level, va, reason=reason)
    return leaf


def _flat(regime: Regime, va: int, access: Access | None) -> int | Fault:
    """Stage 1 off: VA is the output; bits above PAMax are an Address size fault, level 0
    (AArch64.S1DisabledOutput)."""
    fetch = access is not None and access.fetch
    ignored = regime.fetch_top_byte_ignored if fetch else regime.top_byte_ignored
    upper = int(regime.upper is not None and va >> 55 & 1)
    address = va & (1 << 56) - 1 if ignored[upper] else va
    if address >> regime.pa_bits:
        reason = f"MMU off, address is beyond {regime.pa_bits} bits"
        return Fault(FaultKind.ADDRESS_SIZE, 0, va, reason=reason)
    return address


def _with_steps(fault: Fault, steps: list[Step]) -> Fault:
    return Fault(
        fault.kind,
        fault.level,
        fault.va,
        fault.stage,
        fault.s1ptw,
        fault.ipa,
        fault.reason,
        tuple(steps),
    )


def translate(
    memory: Memory,
    regime: Regime,
    va: int,
    access: Access | None = None,
    *,
    stage1_only: bool = False,
) -> Mapping | Fault:
    """Translate *va* (64-bit, unsigned) for *access*; None asks only what is mapped.

    With *stage1_only* the output is the IPA even when stage 2 is in force (AT S1E1R); descriptor
    fetches go through stage 2 all the same. Raises `InvalidError` when the half or stage 2 is
    not walkable as programmed.
    """
    if not 0 <= va < 1 << 64:
        raise InvalidError(f"address {va:#x} does not fit in 64 bits")
    steps: list[Step] = []
    first = _stage1(memory, regime, va, access, steps)
    if isinstance(first, Fault):
        return _with_steps(first, steps)
    leaf, ipa = (None, first) if isinstance(first, int) else (first, first.output)
    fetch = access is not None and access.fetch
    if regime.stage2 is None or stage1_only:
        return Mapping(regime, va, ipa, ipa, leaf, None, tuple(steps), fetch)
    second = _stage2(memory, regime, ipa, steps)
    if isinstance(second, Fault):
        return Fault(second.kind, second.level, va, 2, False, ipa, second.reason, tuple(steps))
    if access is not None and not second.permissions & access.need:
        reason = f"stage 2: {access.name} is not permitted"
        return Fault(FaultKind.PERMISSION, second.level, va, 2, False, ipa, reason, tuple(steps))
    return Mapping(regime, va, ipa, second.output, leaf, second, tuple(steps), fetch)


def translate_stage2(
    memory: Memory, p: WalkParams, ipa: int, access: Access | None = None
) -> tuple[Leaf | Fault, list[Step]]:
    """Translate *ipa* by stage 2 alone, with its steps; *access* is made at EL1 or EL0."""
    steps: list[Step] = []
    if ipa >> p.input_bits:
        reason = f"IPA is outside the {p.input_bits}-bit range of {p.name}"
        return Fault(FaultKind.TRANSLATION, 0, ipa, 2, reason=reason), steps
    found = table_walk(memory, p, ipa, steps)
    if isinstance(found, Leaf) and access is not None and not found.permissions & access.need:
        reason = f"{access.name} is not permitted"
        found = Fault(FaultKind.PERMISSION, found.level, ipa, 2, reason=reason)
    return found, steps
