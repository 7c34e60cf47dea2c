"""What a TLB may hold, what a TLBI is guaranteed to remove, and which entries conflict.

An entry's context is the regime, the ASID or global, and the address: not the TTBR, T0SZ, TG, DS or
PS under which it was made (R_NWYRD). The regime is not repeated in the entries: each regime has its
own set.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ttbr.arch.bits import bits
from ttbr.arch.geometry import LAST_LEVEL
from ttbr.switch.tlbi import Scope, TlbiOp

__all__ = [
    "ABORT",
    "CONFLICT",
    "GLOBAL",
    "JUNK",
    "UNKNOWN",
    "Copy",
    "Entry",
    "Invalidation",
    "Leaf",
    "Part",
    "Unknown",
    "conflict",
    "removes",
]

GLOBAL = None
"""The tag of entries that match every ASID (nG=0), and of all entries in a regime without ASIDs."""


class Leaf(NamedTuple):
    """A translation from a block or page descriptor.

    The descriptor translates *size* bytes from *va*; the entry covers *span* bytes from *first*,
    more than that when the Contiguous bit is set, and translates *first* to *output*. `level`,
    `shift` (log2 of the granule), `attr` (MAIR byte), `sh` and `permissions` are as decoded when it
    was made; `location` is where the descriptor stood.
    """

    tag: int | None
    va: int
    size: int
    first: int
    span: int
    output: int
    level: int
    shift: int
    attr: int
    sh: int
    permissions: int
    descriptor: int
    hierarchical: int
    location: int

    def translate(self, va: int) -> int:
        """The output address of *va*."""
        return self.output + va - self.first


class Part(NamedTuple):
    """A partial walk: for addresses in *size* bytes from *va* continue at *level* in *table*.

    This is all of the walk cache (R_RVJDB). It carries the ASID even above global leaves (R_CHVGJ).
    `hierarchical` are the bits 63:59 collected so far.
    """

    tag: int | None
    va: int
    size: int
    level: int
    table: int
    shift: int
    hierarchical: int
    descriptor: int
    location: int


class Copy(NamedTuple):
    """A copy of a descriptor, kept by physical address (R_BKKRB; not with FEAT_nTLBPA)."""

    tag: int | None
    location: int
    value: int


class Unknown(NamedTuple):
    """Anything at all: what the TLB held before (R_BQCDZ: reset does not invalidate), or with
    `junk` what a walk made of memory that is not a table. It does not go away with the tables that
    led there."""

    junk: bool


Entry = Leaf | Part | Copy | Unknown
UNKNOWN, JUNK = Unknown(False), Unknown(True)


@dataclass(frozen=True, slots=True)
class Invalidation:
    """An issued TLBI: `number` is the point of the trace that issued it."""

    number: int
    regime: str
    op: TlbiOp
    scope: Scope

    @property
    def whole(self) -> bool:
        """Whether it is of every entry of its regime."""
        return self.op.kind.scope in ("ALL", "VMALL", "VMALLS12")

    def completed_by(self, domain: str, kind: str, nxs: bool) -> bool:
        """Whether a DSB completes it: not LD or ST, and as wide as the broadcast (R_PSMWS)."""
        order = ("NSH", "ISH", "OSH", "SY")
        wide = order.index(domain) >= order.index(self.op.shareability)
        return not kind and wide and (self.op.nxs or not nxs)


def _covers(scope: Scope, va: int, size: int) -> bool:
    assert scope.first is not None
    assert scope.last is not None
    return scope.first < va + size and va <= scope.last


def _hint_fits(scope: Scope, op: TlbiOp, entry: Leaf | Part) -> bool:
    """Whether TTL and the range's granule match the entry; a wrong one removes nothing
    (R_SQXYZ, R_XKMMX)."""
    granule, level = bits(scope.ttl, 3, 2), bits(scope.ttl, 1, 0)
    if op.kind.ranged and scope.granule != entry.shift:
        return False
    if not op.kind.ranged and granule == 0:
        return True
    if not op.kind.ranged and 10 + 2 * granule != entry.shift:
        return False
    if op.kind.ranged and scope.ttl == 0:
        return True
    return entry.level == level if isinstance(entry, Leaf) else entry.level <= level


def removes(tlbi: Invalidation, entry: Entry) -> bool:
    """Whether *entry* is in the guaranteed scope of *tlbi*; more may go (R_MMZTY).

    ALL and VMALL take everything, and they alone what is unknown or conflicts (R_BLRKC; the latter
    is for who knows the other entries). VA and VAA take leaves
    and partial walks that cover the address, the last-level forms leaves only (R_JXKNN). ASID takes
    partial walks and non-global leaves of that ASID (C5.5, TLBI ASIDE1; the summary in D8.17.5.4
    reads narrower). A contiguous entry goes with the member that made it (R_LQLSD), a block with
    any address in it (R_LGSCG). Copies by physical address go with any TLBI of their context
    (R_TJQVP).
    """
    return not spared(tlbi, entry)


UNKNOWN_STAYS, STAGE2_ONLY = "it need not remove what is unknown", "it acts on stage 2"
OTHER_ASID, OTHER_ADDRESS = "it names another ASID", "it names other addresses"
WRONG_HINT, LEAVES_ONLY = "its TTL or TG does not fit the entry", "it removes leaves only"


def spared(tlbi: Invalidation, entry: Entry) -> str:
    """Why *tlbi* need not remove *entry*; an empty string where it must (`removes`)."""
    kind, scope = tlbi.op.kind, tlbi.scope
    if tlbi.whole:
        return ""
    if isinstance(entry, Unknown):
        return UNKNOWN_STAYS
    if kind.scope in ("IPAS2", "VMALLWS2"):
        return STAGE2_ONLY
    context = kind.scope == "VAA" or entry.tag is GLOBAL or entry.tag == scope.asid
    if isinstance(entry, Copy):
        return "" if context else OTHER_ASID
    if kind.scope == "ASID":
        return "" if entry.tag == scope.asid else OTHER_ASID
    if not context:
        return OTHER_ASID
    if isinstance(entry, Part) and kind.last_level:
        return LEAVES_ONLY
    if not _covers(scope, entry.va, entry.size):
        return OTHER_ADDRESS
    return "" if _hint_fits(scope, tlbi.op, entry) else WRONG_HINT


CONFLICT, ABORT = "CONFLICT", "CONFLICT-ABORT"
_CONTIGUOUS, _NT = 52, 16


def _size_change(a: Leaf, b: Leaf, bbm: str) -> str:
    """What a difference in block size or Contiguous bit means at a FEAT_BBM level, which is about
    one granule (R_FCPSG)."""
    if a.shift != b.shift:
        return CONFLICT
    if bbm == "2na":
        return ""
    if bbm == "2":
        return ABORT
    # Level 1: only a Contiguous change, or blocks marked nT (R_HHCXC, R_KHRBC).
    blocks = [leaf for leaf in (a, b) if leaf.level != LAST_LEVEL]
    marked = any(leaf.descriptor >> _NT & 1 for leaf in blocks)
    return ABORT if bbm == "1" and (a.level == b.level or marked) else CONFLICT


def conflict(a: Leaf, b: Leaf, va: int, bbm: str) -> str:
    """What happens when both leaves may translate *va*: `CONFLICT`, `ABORT` or nothing.

    From R_WHZWS: memory type or shareability, output address, global against non-global. Another
    size is allowed from FEAT_BBM level 1 or 2 up. A difference in permissions alone is compatible.
    """
    if a.attr != b.attr or a.sh != b.sh or a.translate(va) != b.translate(va):
        return CONFLICT
    if (a.tag is GLOBAL) != (b.tag is GLOBAL):
        return CONFLICT
    if a.size != b.size or (a.descriptor ^ b.descriptor) >> _CONTIGUOUS & 1:
        return _size_change(a, b, bbm)
    return ""
