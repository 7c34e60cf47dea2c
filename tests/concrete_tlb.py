"""The entries of one regime, and what a TLBI is sure to remove of them."""

from random import Random

from concrete_registers import Controls
from concrete_walk import Copy, Leaf, Part, conflict
from ttbr.switch.program import Tlbi
from ttbr.switch.tlbi import Scope

__all__ = ["Pending", "Tlb"]

_CAPACITY = 24
_TTL_GRANULE = {1: 12, 2: 14, 3: 16}


class Pending:
    """A TLBI that has been issued: `bit` marks the entries that it will have removed."""

    __slots__ = ("bit", "everything", "kind", "op", "reach", "scope")

    def __init__(self, event: Tlbi, ds: bool, bit: int) -> None:
        self.op = event.op
        self.bit = bit
        self.kind = event.op.kind
        self.scope: Scope = event.op.scope(event.operand, ds)
        self.reach = event.op.shareability
        self.everything = self.kind.scope in ("ALL", "VMALL", "VMALLS12")

    def leaf(self, leaf: Leaf) -> bool:
        """Whether the leaf is in the guaranteed scope (apart from contiguous groups)."""
        kind, scope = self.kind, self.scope
        if self.everything:
            return True
        if kind.scope == "ASID":
            return leaf.asid == scope.asid
        if not self._covers(leaf.first, leaf.span, leaf.tg, leaf.level):
            return False
        return kind.scope == "VAA" or leaf.asid is None or leaf.asid == scope.asid

    def part(self, part: Part, two: bool) -> bool:
        """Whether the partial walk is in the guaranteed scope: not of last-level forms."""
        kind, scope = self.kind, self.scope
        if self.everything:
            return True
        if kind.last_level:
            return False
        if kind.scope == "ASID":
            return part.asid == scope.asid
        if not self._covers(part.first, part.span, part.tg, None):
            return False
        if self.scope.ttl >> 2 and part.level > self.scope.ttl & 3:
            return False  # the leaf cannot be at the level of the hint: it is wrong (R_SQXYZ)
        return kind.scope == "VAA" or not two or part.asid == scope.asid

    def copy(self, copy: Copy, two: bool) -> bool:
        """PA-indexed copies: any TLBI of the same context (R_TJQVP)."""
        return (
            self.everything or self.kind.scope == "VAA" or not two or copy.asid == self.scope.asid
        )

    def _covers(self, first: int, span: int, tg: int, level: int | None) -> bool:
        scope = self.scope
        if scope.first is None or scope.last is None:
            return False
        if scope.granule is not None and scope.granule != tg:  # R_XKMMX
            return False
        if scope.ttl >> 2 and _TTL_GRANULE.get(scope.ttl >> 2) != tg:  # R_SQXYZ
            return False
        if scope.ttl >> 2 and level is not None and level != scope.ttl & 3:
            return False
        return first <= scope.last and scope.first < first + span


class Tlb:
    """What one regime has cached. Entries carry in `doom` the TLBIs that are to remove them."""

    __slots__ = ("bbm", "copies", "leaves", "parts", "strict", "two", "unknown", "unknown_doom")

    def __init__(self, two: bool, unknown: bool, bbm: str, strict: bool) -> None:
        self.two = two
        self.bbm = bbm
        self.strict = strict
        self.parts: list[Part] = []
        self.leaves: list[Leaf] = []
        self.copies: dict[int, list[Copy]] = {}
        self.unknown = unknown
        self.unknown_doom = 0

    def matching(self, va: int, asid: int) -> list[Leaf]:
        """The leaves that a lookup of *va* under *asid* hits."""
        return [
            e
            for e in self.leaves
            if 0 <= va - e.first < e.span and (e.asid is None or e.asid == asid)
        ]

    def starts(self, va: int, asid: int) -> list[Part]:
        """The partial walks of *va* under *asid*; in EL1&0 always by ASID (R_CHVGJ)."""
        return [e for e in self.parts if 0 <= va - e.first < e.span and e.asid == asid]

    def add_leaf(self, leaf: Leaf, random: Random) -> bool:
        """Cache a leaf; one that is there already (then False) is there afresh."""
        leaf.finish()
        for e in self.leaves:
            if e.key == leaf.key:
                if not leaf.doom:
                    e.todo |= leaf.todo
                e.doom = _longer(e.doom, leaf.doom)
                e.junk = e.junk and leaf.junk
                return False
        if len(self.leaves) >= _CAPACITY:
            del self.leaves[random.randrange(_CAPACITY)]
        self.leaves.append(leaf)
        return True

    def add_part(self, part: Part, random: Random) -> bool:
        """Cache a partial walk; False when it is there already."""
        for e in self.parts:
            if e.key == part.key:
                e.doom = _longer(e.doom, part.doom)
                e.junk = e.junk and part.junk
                return False
        if len(self.parts) >= _CAPACITY:
            del self.parts[random.randrange(_CAPACITY)]
        self.parts.append(part)
        return True

    def add_copy(self, copy: Copy) -> None:
        """Cache a descriptor by its address."""
        copies = self.copies.setdefault(copy.location, [])
        for e in copies:
            if e.asid == copy.asid and e.value == copy.value:
                e.doom = _longer(e.doom, copy.doom)
                return
        copies.append(copy)

    def inherit(
        self, doom: int, pending: list[Pending], leaf: Leaf | None, part: Part | None
    ) -> int:
        """Which TLBIs also remove an entry that was made from one that they are to remove."""
        kept = 0
        for p in pending:
            if not doom & p.bit:
                continue
            if (leaf is not None and p.leaf(leaf)) or (part is not None and p.part(part, self.two)):
                kept |= p.bit
        return kept

    def issue(self, p: Pending, controls: Controls) -> None:
        """A TLBI is issued: mark what it must have removed when it is complete."""
        for leaf in self.leaves:
            if p.leaf(leaf):
                leaf.todo &= ~self._members(p, leaf)
                if not leaf.todo:
                    leaf.doom |= p.bit
        for part in self.parts:
            if p.part(part, self.two):
                part.doom |= p.bit
        for copies in self.copies.values():
            for copy in copies:
                if p.copy(copy, self.two):
                    copy.doom |= p.bit
        if p.everything:
            self.unknown_doom |= p.bit
            controls.doom(p.bit)

    def _members(self, p: Pending, leaf: Leaf) -> int:
        """The members of a contiguous group that the TLBI names (R_LQLSD: each needs one)."""
        if p.everything or p.kind.scope == "ASID" or not leaf.todo:
            return -1
        first, last = p.scope.first, p.scope.last
        assert first is not None
        assert last is not None
        size = 1 << leaf.tg + (3 - leaf.level) * (leaf.tg - 3)
        low = max(0, (first - leaf.first) // size)
        high = min(leaf.span // size - 1, (last - leaf.first) // size)
        return (1 << high + 1) - (1 << low)

    def conflicting(self) -> set[int]:
        """Entries (by id) that a lookup may hit together with an incompatible one; two values of
        one descriptor are left to the rule about stores."""
        found: set[int] = set()
        for i, a in enumerate(self.leaves):
            for b in self.leaves[:i]:
                if (
                    max(a.first, b.first) < min(a.first + a.span, b.first + b.span)
                    and (a.asid is None or b.asid is None or a.asid == b.asid)
                    and a.path[-1][0] != b.path[-1][0]
                    and conflict(a, b, self.bbm) == "CONFLICT"
                ):
                    found |= {id(a), id(b)}
        for i, p in enumerate(self.parts if self.strict else []):
            for q in self.parts[:i]:
                if (
                    max(p.first, q.first) < min(p.first + p.span, q.first + q.span)
                    and (p.asid, p.level) == (q.asid, q.level)
                    and p.table != q.table
                    and p.path[-1][0] != q.path[-1][0]
                ):
                    found |= {id(p), id(q)}
        return found

    def spare(self, bits: int) -> None:
        """These TLBIs, not of everything, need not remove what conflicts (R_BLRKC)."""
        spared = self.conflicting()
        for leaf in self.leaves:
            if id(leaf) in spared:
                leaf.doom &= ~bits
        for part in self.parts:
            if id(part) in spared:
                part.doom &= ~bits

    def complete(self, bits: int, controls: Controls) -> None:
        """These TLBIs are complete: what they marked is gone."""
        self.leaves = [e for e in self.leaves if not e.doom & bits]
        self.parts = [e for e in self.parts if not e.doom & bits]
        for location, copies in list(self.copies.items()):
            left = [e for e in copies if not e.doom & bits]
            if left:
                self.copies[location] = left
            else:
                del self.copies[location]
        if self.unknown_doom & bits:
            self.unknown = False
        controls.forget(bits)


def _longer(a: int, b: int) -> int:
    """The TLBIs that end the one of two equal entries that lives longer."""
    return a & b if a & b or not (a and b) else a
