"""TLB invalidation instructions: every name, its encoding, and what its operand says.

A TLBI is one of a few kinds, for one exception level, with a shareability and perhaps the nXS
qualifier, so the names are rows times suffixes (Arm ARM C5.5, D8.17.5):

``TLBI <kind>E<el>{IS|OS}{nXS}``

`KINDS` holds the rows: CRm and op2 for the three shareabilities. op1 is 0 for what acts on EL1&0
from EL1, 4 for what EL2 owns (stage 2 included) and 6 for EL3; CRn is 8, or 9 with nXS (FEAT_XS).
"""

from dataclasses import dataclass, field
from functools import cache

from ttbr.arch.bits import bits
from ttbr.errors import InvalidError

__all__ = ["KINDS", "Kind", "Scope", "TlbiOp", "tlbi_by_encoding", "tlbi_by_name"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A row: the kind's name, the ELs and op1 it exists with, and its place in the encoding.

    `scope` is ALL (every entry of the regime), VMALL, VMALLS12, VMALLWS2, ASID, VA, VAA or IPAS2;
    `last_level` entries only leave the intermediate ones alone (VAL, VAAL, IPAS2L); `ranged` takes
    a base and a length instead of one address. `crm` and `op2` are for NSH, IS, OS.
    """

    name: str
    op1_by_el: tuple[tuple[int, int], ...]
    scope: str
    last_level: bool
    ranged: bool
    crm: tuple[int, int, int]
    op2: tuple[int, int, int]


_EL1, _STAGE2_EL1, _EVERY = ((1, 0),), ((1, 4),), ((1, 0), (2, 4), (3, 6))
_ONE = (7, 3, 1)
_RANGE = (6, 2, 5)
_STAGE2 = (4, 0, 4)

KINDS: tuple[Kind, ...] = (
    Kind("VMALL", _EL1, "VMALL", False, False, _ONE, (0, 0, 0)),
    Kind("ALL", ((2, 4), (3, 6)), "ALL", False, False, _ONE, (0, 0, 0)),
    Kind("ALL", _STAGE2_EL1, "ALL", False, False, _ONE, (4, 4, 4)),
    Kind("VMALLS12", _STAGE2_EL1, "VMALLS12", False, False, _ONE, (6, 6, 6)),
    Kind("VMALLWS2", _STAGE2_EL1, "VMALLWS2", False, False, _RANGE, (2, 2, 2)),
    Kind("ASID", _EL1, "ASID", False, False, _ONE, (2, 2, 2)),
    Kind("VA", _EVERY, "VA", False, False, _ONE, (1, 1, 1)),
    Kind("VAL", _EVERY, "VA", True, False, _ONE, (5, 5, 5)),
    Kind("VAA", _EL1, "VAA", False, False, _ONE, (3, 3, 3)),
    Kind("VAAL", _EL1, "VAA", True, False, _ONE, (7, 7, 7)),
    Kind("RVA", _EVERY, "VA", False, True, _RANGE, (1, 1, 1)),
    Kind("RVAL", _EVERY, "VA", True, True, _RANGE, (5, 5, 5)),
    Kind("RVAA", _EL1, "VAA", False, True, _RANGE, (3, 3, 3)),
    Kind("RVAAL", _EL1, "VAA", True, True, _RANGE, (7, 7, 7)),
    Kind("IPAS2", _STAGE2_EL1, "IPAS2", False, False, _STAGE2, (1, 1, 0)),
    Kind("IPAS2L", _STAGE2_EL1, "IPAS2", True, False, _STAGE2, (5, 5, 4)),
    Kind("RIPAS2", _STAGE2_EL1, "IPAS2", False, True, _STAGE2, (2, 2, 3)),
    Kind("RIPAS2L", _STAGE2_EL1, "IPAS2", True, True, _STAGE2, (6, 6, 7)),
)

_SHAREABILITY = ("NSH", "ISH", "OSH")
_SUFFIX = ("", "IS", "OS")
_RANGE_GRANULE = {1: 12, 2: 14, 3: 16}
_E2H, _TGE = 1 << 34, 1 << 27


@dataclass(frozen=True, slots=True)
class Scope:
    """What a TLBI's operand names.

    `first` and `last` bound the input addresses (VA sign-extended from bit 55, both included) of a
    VA or IPA scope, and are None for the others. `asid` counts for the scopes ASID and VA. `ttl` is
    the operand's level hint: 0 says nothing; else bits 3:2 are the granule (1: 4K, 2: 16K, 3: 64K)
    and bits 1:0 the level. `granule` is log2 of a ranged operand's granule.
    """

    first: int | None = None
    last: int | None = None
    asid: int | None = None
    ttl: int = 0
    granule: int | None = None


@dataclass(frozen=True, slots=True)
class TlbiOp:
    """One TLBI instruction. `shareability` is NSH, ISH or OSH; `kind` is the row of `KINDS`."""

    name: str
    kind: Kind = field(repr=False)
    el: int = field(repr=False)
    shareability: str = field(repr=False)
    nxs: bool = field(repr=False)

    @property
    def least(self) -> int:
        """The lowest exception level that has it: by op1 (0 EL1, 4 EL2, 6 EL3), not by the name."""
        return {0: 1, 4: 2, 6: 3}[dict(self.kind.op1_by_el)[self.el]]

    @property
    def operand(self) -> bool:
        """Whether the instruction has a register operand."""
        return self.kind.scope in ("ASID", "VA", "VAA", "IPAS2")

    def regime(self, el: int, hcr: int) -> str:
        """The regime it acts on when executed at *el* under HCR_EL2 = *hcr*.

        ``EL1&0``, ``EL2``, ``EL2&0`` or ``EL3``. With HCR_EL2.{E2H,TGE} = {1,1} the EL1 names
        executed at EL2 act on EL2&0 (C5.5, the page of each instruction); stage 2 and ALLE1
        always mean EL1&0.
        """
        e2h, tge = bool(hcr & _E2H), bool(hcr & _TGE)
        if self.el == 3:
            return "EL3"
        if self.el == 2:
            return "EL2&0" if e2h else "EL2"
        redirected = dict(self.kind.op1_by_el)[self.el] == 0 and el >= 2 and e2h and tge
        return "EL2&0" if redirected else "EL1&0"

    def scope(self, operand: int, ds: bool = False) -> Scope:
        """What *operand* names; *ds* is TCR.DS of the regime (it scales a ranged base address).

        `InvalidError` for a reserved granule in a ranged operand.
        """
        if not self.operand:
            return Scope()
        asid = bits(operand, 63, 48) if self.kind.scope in ("ASID", "VA") else None
        if self.kind.scope == "ASID":
            return Scope(asid=asid)
        if self.kind.ranged:
            return self._range(operand, asid, ds)
        if self.kind.scope == "IPAS2":
            first = bits(operand, 39, 0) << 12
        else:
            first = _sign_extended(bits(operand, 43, 0) << 12, 55)
        return Scope(first, first + 0xFFF, asid, bits(operand, 47, 44))

    def _range(self, operand: int, asid: int | None, ds: bool) -> Scope:
        """BaseADDR, NUM, SCALE, TTL and TG of a range operand (FEAT_TLBIRANGE)."""
        tg = bits(operand, 47, 46)
        if tg not in _RANGE_GRANULE:
            raise InvalidError(f"tlbi {self.name}: operand {operand:#x}: TG = 0 is reserved")
        granule = _RANGE_GRANULE[tg]
        shift = 16 if ds else granule
        first = bits(operand, 36, 0) << shift
        if self.kind.scope != "IPAS2":
            first = _sign_extended(first, 36 + shift)
        pages = (bits(operand, 43, 39) + 1) << (5 * bits(operand, 45, 44) + 1)
        level = bits(operand, 38, 37)
        return Scope(
            first, first + (pages << granule) - 1, asid, tg << 2 | level if level else 0, granule
        )


def _sign_extended(value: int, top: int) -> int:
    """*value* with bit *top* copied to the bits above it, as an unsigned 64-bit number."""
    return value | (2**64 - 2 ** (top + 1)) if value >> top & 1 else value


@cache
def _by_encoding() -> dict[tuple[int, int, int, int], TlbiOp]:
    table = {}
    for kind in KINDS:
        for el, op1 in kind.op1_by_el:
            for i, shareability in enumerate(_SHAREABILITY):
                for nxs in (False, True):
                    name = f"{kind.name}E{el}{_SUFFIX[i]}{'nXS' if nxs else ''}"
                    encoding = (op1, 9 if nxs else 8, kind.crm[i], kind.op2[i])
                    table[encoding] = TlbiOp(name, kind, el, shareability, nxs)
    return table


@cache
def _by_name() -> dict[str, TlbiOp]:
    return {op.name.upper(): op for op in _by_encoding().values()}


def tlbi_by_name(name: str) -> TlbiOp | None:
    """The instruction of that name, in any case, or None."""
    return _by_name().get(name.upper())


def tlbi_by_encoding(op1: int, crn: int, crm: int, op2: int) -> TlbiOp | None:
    """The instruction that ``SYS #op1, Ccrn, Ccrm, #op2`` is, or None."""
    return _by_encoding().get((op1, crn, crm, op2))
