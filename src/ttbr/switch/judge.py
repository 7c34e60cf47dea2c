"""The TLB of one address through all points of a trace, and the verdict on its accesses.

`Slice` carries the may-present entries that concern one address from point to point; `judge`
compares every outcome that they and a fresh walk allow with what the intent says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ttbr.arch.attributes import is_device
from ttbr.switch.configs import ROWS, Config
from ttbr.switch.problem import A_IC, Intent
from ttbr.switch.saturate import Entries, Note, Origin, Stop, Walker
from ttbr.switch.state import OUT, Point
from ttbr.switch.timeline import Access, Timeline
from ttbr.switch.tlb import (
    CONFLICT,
    GLOBAL,
    JUNK,
    UNKNOWN,
    Copy,
    Invalidation,
    Leaf,
    Part,
    conflict,
    removes,
)
from ttbr.walk.translate import leaf_permissions

__all__ = [
    "ATTR",
    "BBM",
    "FAULT",
    "JUNK_WALK",
    "KINDS",
    "PERM",
    "UNKNOWN_TLB",
    "WRONG_PA",
    "Clash",
    "Finding",
    "Flat",
    "Hit",
    "Slice",
    "Stale",
    "judge",
]

FAULT, PERM, WRONG_PA, ATTR = "FAULT", "PERM", "WRONG-PA", "ATTR"
JUNK_WALK, UNKNOWN_TLB, BBM = "JUNK-WALK", "UNKNOWN-TLB", "BBM"

KINDS: dict[str, str] = {
    WRONG_PA: "may reach another physical address",
    ATTR: "may use another memory type",
    FAULT: "may take a translation, address size or access flag fault",
    PERM: "may take a permission fault",
    "CONFLICT": "incompatible TLB entries may coexist: CONSTRAINED UNPREDICTABLE",
    "CONFLICT-ABORT": "a TLB conflict abort is permitted, the data stays right",
    JUNK_WALK: "the walk reads memory that is not a table as descriptors",
    UNKNOWN_TLB: "entries from before reset or of a previous owner are not excluded",
    BBM: "a valid descriptor replaces another that may still be cached, without break-before-make",
}
"""The verdict kinds of an unsafe trace, worst first."""


class Flat(NamedTuple):
    """The MMU is off for the access: the output address is the address (R_WFZPW).

    A data access is then Device-nGnRnE. That is as meant where the MMU is known to be off, but not
    when it may be on as well (`mixed`).
    """

    output: int
    mixed: bool


class Hit(NamedTuple):
    """A translation by `leaf`, looked up under `config`; `attr` and `permissions` as used then."""

    leaf: Leaf
    config: Config
    output: int
    attr: int
    permissions: int


class Clash(NamedTuple):
    """Two entries that match one lookup; `kind` is CONFLICT or CONFLICT-ABORT. Two partial walks
    clash only without A-IC."""

    kind: str
    a: Leaf | Part
    b: Leaf | Part
    config: Config


class Stale(NamedTuple):
    """Unknown entries may match, or with `junk` what a walk of something that is no table made."""

    config: Config
    junk: bool


Outcome = Flat | Hit | Clash | Stop | Stale


class Finding(NamedTuple):
    """One way in which an access goes wrong: translated at point `point`, it meets `outcome`.

    For `BBM` the access is the store and `outcome` a `Clash` of the leaf before and after.
    """

    kind: str
    access: Access
    point: int
    outcome: Outcome
    intent: Intent | None
    slice: "Slice"


@dataclass(slots=True)
class _World:
    """The entries as they may be now, or as they may be once a pending TLBI is complete.

    They are closed under walks of `configs` that see `visible`, and read `reading` of what is
    stored to.
    """

    entries: Entries
    configs: tuple[Config, ...] | None = None
    visible: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    reading: frozenset[int] = frozenset()

    def complete(self, tlbi: Invalidation, post: Entries) -> None:
        """Drop what *tlbi* removes, but for what may have been made after its issue (*post*).

        What was made from a removed entry before the completion, for an address outside the scope,
        stays (R_TGVWD: nothing is guaranteed before the DSB).
        """
        kept = {e: o for e, o in self.entries.items() if e in post or not removes(tlbi, e)}
        if len(kept) < len(self.entries):
            self.entries, self.configs = kept, None


class Slice:
    """The TLB of one 4 KB page of addresses in one regime.

    `worlds` are the entries at each point. `pool` are locations whose descriptors other addresses
    may have copied by physical address, by point.
    """

    def __init__(self, line: Timeline, regime: str, va: int) -> None:
        self.line, self.regime, self.va = line, regime, va
        self.row = ROWS[regime]
        self.upper = int(len(self.row.halves) > 1 and va >> 55 & 1)
        options = line.problem.options
        self.bbm = options.bbm
        self.strict = A_IC not in options.assumptions
        self.walker = Walker(va, line.tables, line.stored, copies=not options.ntlbpa)
        self.foreign = self._environment()
        self.worlds: list[Entries] = []
        self.touched: dict[int, frozenset[int]] = {}
        self._outcomes: dict[tuple[int, bool], tuple[Outcome, ...]] = {}

    def _environment(self) -> tuple[Config, ...]:
        made = [
            self.line.configurations.environment(self.row, e.registers, self.upper)
            for e in self.line.problem.environment
            if e.regime == self.regime
        ]
        return tuple(c for c in made if c is not None)

    def configs(self, point: Point, number: int = -1) -> tuple[Config, ...]:
        """Configs of the walks at *point*, those of other PEs included while CnP shares the TLB."""
        configs = self.line.configs(point, self.regime, self.upper, number)
        if self.foreign and any(c.cnp for c in configs):
            return (*configs, *self.foreign)
        return configs

    def _start(self) -> Entries:
        problem = self.line.problem
        fields = self.line.points[0].registers[self.regime].fields
        unknown = not fields["M"][-1] if problem.unknown_tlb is None else problem.unknown_tlb
        return {UNKNOWN: Origin(0, None, None)} if unknown else {}

    def run(self, pool: dict[int, set[int]] | None = None) -> None:
        """Carry the entries through all points."""
        self.worlds.clear()
        self._outcomes.clear()
        now = _World(self._start())
        posts: dict[int, tuple[Invalidation, _World]] = {}
        for point in self.line.points:
            if point.issued is not None and point.issued.regime == self.regime:
                tlbi = point.issued
                kept = {e: o for e, o in now.entries.items() if not removes(tlbi, e)}
                posts[tlbi.number] = tlbi, _World(kept)
            for number in point.completed:
                if number in posts:
                    tlbi, post = posts.pop(number)
                    for world in (now, *(world for _, world in posts.values())):
                        world.complete(tlbi, post.entries)
            if point.registers[self.regime].walking != OUT:
                borrowed = pool.get(point.number, set()) if pool else set()
                self._saturate(now, point, -1, borrowed)
                for number, (_, world) in posts.items():
                    self._saturate(world, point, number, borrowed)
                reading = now.reading.union(*(world.reading for _, world in posts.values()))
                if reading:
                    self.touched[point.number] = reading
            self.worlds.append(now.entries)

    def _saturate(self, world: _World, point: Point, number: int, borrowed: Iterable[int]) -> None:
        """Close *world* when anything changed that its walks may use; else it is closed.

        Fewer configs leave it closed too, but what is still read counts where there are stores.
        """
        configs, last = self.configs(point, number), world.configs
        known = last is not None and (
            configs is last
            or set(configs) == set(last)
            or (not self.line.stored and set(configs) <= set(last))
        )
        seen = world.visible
        if (
            known
            and not borrowed
            and all(point.visible.get(at) == seen.get(at) for at in world.reading)
        ):
            return
        self.walker.touched.clear()
        entries = self.walker.close(world.entries, configs, point.visible, point.number)
        copies: Entries = {
            Copy(c.asid, at, value): Origin(point.number, c, None)
            for at in borrowed
            for value in point.visible.get(at) or (self.line.tables[at] or 0,)
            for c in configs
            if c.enabled and value & 1
        }
        if copies.keys() - entries.keys():
            entries = self.walker.close({**copies, **entries}, configs, point.visible, point.number)
        world.entries, world.configs, world.visible = entries, configs, point.visible
        world.reading = frozenset(self.walker.touched)

    def outcomes(self, number: int, ordered: bool = False) -> tuple[Outcome, ...]:
        """Everything that a lookup at point *number* may lead to.

        With *ordered* (FEAT_ETS2) faults come only from what the newest stores left.
        """
        key = (number, ordered)
        found = self._outcomes.get(key)
        if found is None:
            found = self._outcomes[key] = tuple(self._lookup(number, ordered))
        return found

    def _lookup(self, number: int, ordered: bool) -> Iterable[Outcome]:
        point, entries = self.line.points[number], self.worlds[number]
        configs = self.line.configs(point, self.regime, self.upper)
        live = [c for c in configs if c.enabled]
        if len(live) < len(configs):
            yield Flat(self.va, bool(live))
        if not live:
            return
        for entry in (UNKNOWN, JUNK):
            if entry in entries:
                yield Stale(live[0], entry.junk)
        note = Note()
        self.walker.close(entries, live, point.visible, number, note)
        stops = note.stops
        if ordered:
            newest = Note()
            self.walker.close(entries, live, point.ordered, number, newest)
            stops = [s for s in stops if s.kind != "fault"]
            stops += [s for s in newest.stops if s.kind == "fault"]
        yield from stops
        asids, decoders = set(), set()
        for c in live:
            match = [e for e in entries if isinstance(e, Leaf) and e.tag in (GLOBAL, c.asid)]
            if c.asid not in asids:
                asids.add(c.asid)
                yield from self._clashes(match, c)
                if self.strict:
                    yield from self._part_clashes(entries, c)
            if (c.asid, c.decoder) not in decoders:
                decoders.add((c.asid, c.decoder))
                for leaf in match:
                    yield from self._hits(leaf, c)

    def _hits(self, leaf: Leaf, c: Config) -> Iterable[Hit]:
        """The lookup as cached, and with MAIR and WXN as they read now."""
        output = leaf.translate(self.va)
        yield Hit(leaf, c, output, leaf.attr, leaf.permissions)
        if c.decoder is not None:
            p = c.decoder.p
            attr = p.mair >> (leaf.descriptor >> 2 & 7) * 8 & 0xFF
            permissions = leaf_permissions(p, leaf.descriptor, leaf.hierarchical)
            if (attr, permissions) != (leaf.attr, leaf.permissions):
                yield Hit(leaf, c, output, attr, permissions)

    def _clashes(self, match: list[Leaf], c: Config) -> Iterable[Clash]:
        for i, a in enumerate(match):
            for b in match[:i]:
                kind = conflict(a, b, self.va, self.bbm)
                if kind:
                    yield Clash(kind, b, a, c)

    def _part_clashes(self, entries: Entries, c: Config) -> Iterable[Clash]:
        """The strict reading of I_HYQMB and I_CFFVK: partial walks that go on at one level in
        different tables conflict like leaves do."""
        match = [e for e in entries if isinstance(e, Part) and e.tag in (GLOBAL, c.asid)]
        for i, a in enumerate(match):
            for b in match[:i]:
                if a.level == b.level and a.table != b.table:
                    yield Clash(CONFLICT, b, a, c)


def _kinds(outcome: Outcome, access: Access, intent: Intent) -> list[str]:
    """The verdict kinds of one outcome; none when it is what the intent says."""
    if isinstance(outcome, Stop):
        if outcome.kind == "junk":
            return [JUNK_WALK]
        return [] if intent.fault or intent.pa is None else [FAULT]
    if isinstance(outcome, Clash):
        return [outcome.kind]
    if isinstance(outcome, Stale):
        return [JUNK_WALK if outcome.junk else UNKNOWN_TLB]
    need = access.need
    if outcome.output != intent.output(access.va & ~0xFFF):
        return [WRONG_PA]
    if isinstance(outcome, Flat):
        normal = not access.fetch and access.typed and not is_device(intent.attr)
        return [ATTR] if outcome.mixed and normal else []
    kinds = []
    if outcome.attr != intent.attr and access.typed:
        kinds.append(ATTR)
    if need & ~outcome.permissions and not intent.fault:
        kinds.append(PERM)
    return kinds


def judge(piece: Slice, access: Access, intent: Intent) -> list[Finding]:
    """What can go wrong with *access*: the first finding of each kind."""
    options = piece.line.problem.options
    ordered = options.ets2 and not access.fetch
    first = access.now if ordered else access.since
    found: dict[str, Finding] = {}
    for number in range(first, access.now + 1):
        for outcome in piece.outcomes(number, ordered):
            for kind in _kinds(outcome, access, intent):
                if kind not in found:
                    found[kind] = Finding(kind, access, number, outcome, intent, piece)
    return list(found.values())
