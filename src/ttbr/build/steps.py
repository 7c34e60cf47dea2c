"""The steps of an edit: descriptor writes, barriers and TLB maintenance, in their order.

What a live entry needs depends on how it changes:

====================================  ===========================================================
invalid -> valid                      write; DSB; ISB: nothing invalid is cached (I_WZCBG)
valid -> invalid                      write; DSB; TLBI; DSB; ISB (R_SPVBD, R_PSMWS)
permissions, AF, software bits        the same: both translations may be used until then
memory type, shareability, NS,        break-before-make (R_WHZWS, R_DDMVT): write invalid; DSB;
output address, nG 1 to 0             TLBI; DSB; write the new descriptor; DSB; ISB
Contiguous bit                        break-before-make; none with FEAT_BBM level 1 (R_KHRBC)
block <-> table                       break-before-make; none with FEAT_BBM level 2 (R_FCPSG)
any change in a contiguous group      break-before-make of the group: its members must be alike at
                                      all times (R_QTRPM)
====================================  ===========================================================

With FEAT_BBM level 1 or 2 a CPU may still take a TLB conflict abort (I_HYQMB); no step here handles
one.
"""

from dataclasses import dataclass

from ttbr.arch.bits import ones
from ttbr.arch.descriptors import BLOCK, PAGE, TABLE, descriptor_type
from ttbr.arch.regime import EL1, EL2, EL3, EL20, STAGE2, WalkParams
from ttbr.build.params import regime_name
from ttbr.build.plan import CONTIGUOUS

__all__ = ["Barrier", "Change", "Invalidate", "Step", "Write", "WriteTable", "schedule"]


@dataclass(frozen=True, slots=True)
class Write:
    """One 64-bit store of descriptor *new* over *old*; *va* is what the entry translates first."""

    address: int
    old: int
    new: int
    level: int
    va: int
    rule: str = ""

    @property
    def text(self) -> str:
        return f"store {self.new:#018x} at {self.address:#x} (level {self.level}, {self.va:#x})"


@dataclass(frozen=True, slots=True)
class WriteTable:
    """All descriptors of a table to which nothing refers yet."""

    address: int
    descriptors: tuple[int, ...]
    level: int
    va: int
    rule: str = "R_TGRMW"

    @property
    def text(self) -> str:
        valid = sum(d & 1 for d in self.descriptors)
        return f"fill table {self.address:#x} (level {self.level}, {self.va:#x}): {valid} valid"


@dataclass(frozen=True, slots=True)
class Barrier:
    """``dsb ishst``, ``dsb ish`` or ``isb``."""

    text: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Invalidate:
    """A TLBI *operation*; *argument* is its register operand, None for an operation without."""

    operation: str
    argument: int | None = None
    rule: str = ""

    @property
    def text(self) -> str:
        operand = "" if self.argument is None else f", {self.argument:#x}"
        return f"tlbi {self.operation}{operand}"


Step = Write | WriteTable | Barrier | Invalidate


@dataclass(frozen=True, slots=True)
class Change:
    """A live entry that becomes another; `stale` are the addresses whose TLB entries must go."""

    address: int
    old: int
    new: int
    level: int
    va: int
    stale: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Operations:
    """TLBI of a regime: last level by address, all levels by address, everything."""

    last: str
    all_levels: str
    everything: str


# EL1&0 and EL2&0 by address for all ASIDs; the operations of EL2&0 act on it with HCR_EL2.TGE=1.
_OPERATIONS = {
    EL1: _Operations("vaale1is", "vaae1is", "vmalle1is"),
    EL20: _Operations("vaale1is", "vaae1is", "alle2is"),
    EL2: _Operations("vale2is", "vae2is", "alle2is"),
    EL3: _Operations("vale3is", "vae3is", "alle3is"),
    STAGE2: _Operations("ipas2le1is", "ipas2e1is", "vmalls12e1is"),
}
# As Linux, MAX_TLBI_OPS: beyond it one operation for everything is cheaper.
MOST_OPERATIONS = 512

_STORED = Barrier("dsb ishst", "R_SPVBD")
_DONE = Barrier("dsb ish", "R_PSMWS")
_SYNCHRONISED = Barrier("isb", "R_BLDZX")


def schedule(
    p: WalkParams, tables: list[WriteTable], changes: list[Change], bbm: int
) -> list[Step]:
    """The steps that make *changes*: new *tables* first, then breaks, maintenance, and makes.

    *bbm* is the level of FEAT_BBM that the CPU has (ID_AA64MMFR2_EL1.BBM).
    """
    steps: list[Step] = list(tables)
    if tables:
        steps.append(_STORED)
    makes: list[Step] = []
    live = False
    for change in changes:
        rule = break_rule(p, change, bbm)
        if not change.old & 1:
            makes.append(_write(change, change.new, "I_WZCBG"))
            continue
        live = True
        if rule:
            steps.append(_write(change, 0, rule))
            made = Change(change.address, 0, change.new, change.level, change.va)
            makes.append(_write(made, change.new, "R_DDMVT"))
        else:
            steps.append(_write(change, change.new, "R_WHZWS"))
    if live:
        steps += [_STORED, *_maintenance(p, changes), _DONE]
    if makes:
        steps += [*makes, _STORED]
    return [*steps, _SYNCHRONISED]


def _write(change: Change, new: int, rule: str) -> Write:
    return Write(change.address, change.old, new, change.level, change.va, rule)


def break_rule(p: WalkParams, change: Change, bbm: int) -> str:
    """The rule that demands break-before-make for *change*, or an empty string."""
    old, new = change.old, change.new
    kinds = [descriptor_type(d, change.level, p.granule, p.form.wide) for d in (old, new)]
    if not (old & new & 1):
        return ""
    if TABLE in kinds:
        return "" if kinds[0] == kinds[1] or bbm >= 2 else "R_WHZWS size"
    assert set(kinds) <= {BLOCK, PAGE}
    changed = old ^ new
    if changed & (p.form.low_mask(p.granule.shift) | p.form.high_mask):
        return "R_WHZWS output address"
    if changed & (0xF << 2 if p.stage == 2 else 7 << 2):
        return "R_WHZWS memory type"
    if changed & 3 << 8 and p.sh is None:
        return "R_WHZWS shareability"
    if p.stage == 1 and changed & 1 << 5:
        return "R_WHZWS NS"
    if p.stage == 1 and p.el0 and old & ~new & 1 << 11:
        return "R_WHZWS global"
    if changed & CONTIGUOUS and bbm < 1:
        return "R_WHZWS contiguous"
    return "R_QTRPM" if old & new & CONTIGUOUS else ""


def _maintenance(p: WalkParams, changes: list[Change]) -> list[Step]:
    """TLBI for what *changes* leave in TLBs: by address, or everything when that is too much."""
    regime = regime_name(p)
    operations = _OPERATIONS[regime]
    stale = [va for change in changes for va in change.stale]
    if len(stale) > MOST_OPERATIONS:
        return [Invalidate(operations.everything, None, "R_MMZTY")]
    steps: list[Step] = []
    for change in changes:
        # The last-level forms keep entries that refer to a table (R_JXKNN).
        is_table = descriptor_type(change.old, change.level, p.granule, p.form.wide) == TABLE
        name = operations.all_levels if is_table else operations.last
        steps += [
            Invalidate(name, va >> 12 & ones(40 if p.stage == 2 else 44), "R_LQLSD")
            for va in change.stale
        ]
    if regime == STAGE2:
        # Operations by IPA leave entries that combine both stages (I_CKZGP).
        steps += [_DONE, Invalidate("vmalle1is", None, "I_CKZGP")]
    return steps
