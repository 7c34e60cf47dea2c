"""The TLB of one address through all points of a trace, and the verdict on its accesses.

`Slice` carries the may-present entries that concern one address from point to point; `judge`
compares every outcome that they and a fresh walk allow with what the intent says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from ttbr.arch.attributes import NORMAL_NC, UR, UW, UX, is_device
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
    Entry,
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
    "NO_FAULT",
    "PERM",
    "UNALIGNED",
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
NO_FAULT, JUNK_WALK, UNKNOWN_TLB, BBM = "NO-FAULT", "JUNK-WALK", "UNKNOWN-TLB", "BBM"

UNALIGNED = "the address is not aligned, with SCTLR_ELx.A=1"
_GP = 50  # guarded page (FEAT_BTI)

KINDS: dict[str, str] = {
    WRONG_PA: "may reach another physical address",
    ATTR: "may use another memory type",
    FAULT: "may fault: translation, address size, access flag, alignment or branch target",
    PERM: "may take a permission fault",
    NO_FAULT: "is meant to fault and may not, so that the program goes on there",
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

    def fresh(self) -> tuple[int, int]:
        """Memory type and permissions by MAIR and WXN as the lookup reads them now."""
        leaf, decoder = self.leaf, self.config.decoder
        if decoder is None:
            return leaf.attr, leaf.permissions
        attr = decoder.p.mair >> (leaf.descriptor >> 2 & 7) * 8 & 0xFF
        return attr, leaf_permissions(decoder.p, leaf.descriptor, leaf.hierarchical)


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

    def complete(self, tlbi: Invalidation, post: Entries, clashing: Iterable[Entry]) -> None:
        """Drop what *tlbi* removes, but for what may have been made after its issue (*post*), and
        for what only a TLBI of everything removes for sure (*clashing*).

        What was made from a removed entry before the completion, for an address outside the scope,
        stays (R_TGVWD: nothing is guaranteed before the DSB).
        """
        sure = {e for e in self.entries if removes(tlbi, e)} - set(clashing)
        # What is there again is there since the walk in *post*.
        kept = {
            e: post[e] if e in sure else origin
            for e, origin in self.entries.items()
            if e not in sure or e in post
        }
        if len(kept) < len(self.entries):
            self.configs = None
        self.entries = kept


class Slice:
    """The TLB of one 4 KB page of addresses in one regime.

    `worlds` are the entries at each point; at `alike[n]`, an earlier point or n itself, everything
    is as at point n. `pool` are locations whose descriptors other addresses may have copied by
    physical address, by point.
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
        self.alike: list[int] = []
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
        """Configs of the walks at *point*, those of other PEs included while CnP shares the TLB,
        also while this PE is out of context."""
        configs = self.line.configs(point, self.regime, self.upper, number)
        out = point.registers[self.regime].walking == OUT
        if self.foreign and any(c.cnp for c in configs):
            return self.foreign if out else (*configs, *self.foreign)
        return () if out else configs

    def _start(self) -> Entries:
        problem = self.line.problem
        fields = self.line.points[0].registers[self.regime].fields
        unknown = not fields["M"][-1] if problem.unknown_tlb is None else problem.unknown_tlb
        return {UNKNOWN: Origin(0, None, None)} if unknown else {}

    def run(self, pool: dict[int, set[int]] | None = None) -> None:
        """Carry the entries through all points."""
        self.worlds.clear()
        self.alike.clear()
        self._outcomes.clear()
        now = _World(self._start())
        posts: dict[int, tuple[Invalidation, _World]] = {}
        reading: frozenset[int] = frozenset()
        before: Point | None = None
        for point in self.line.points:
            tlbi = point.issued
            if tlbi is not None and (
                tlbi.regime != self.regime
                or not (tlbi.whole or any(removes(tlbi, e) for e in now.entries))
            ):
                tlbi = None  # its world would be the same as without it
            borrowed = pool.get(point.number, set()) if pool else set()
            done = [number for number in point.completed if number in posts]
            idle = tlbi is None and not done and not borrowed
            quiet = before is not None and idle and self._quiet(before, point, reading)
            if not quiet:
                if tlbi is not None:
                    kept = {e: o for e, o in now.entries.items() if not removes(tlbi, e)}
                    posts[tlbi.number] = tlbi, _World(kept)
                for number in done:
                    self._complete(now, posts, number)
                reading = frozenset()
                if self.configs(point):
                    self._saturate(now, point, -1, borrowed)
                    for number, (_, world) in posts.items():
                        self._saturate(world, point, number, borrowed)
                    reading = now.reading.union(*(world.reading for _, world in posts.values()))
            if reading:
                self.touched[point.number] = reading
            self.worlds.append(now.entries)
            self.alike.append(self.alike[-1] if quiet else point.number)
            before = point

    def _complete(
        self, now: _World, posts: dict[int, tuple[Invalidation, _World]], number: int
    ) -> None:
        """Take what TLBI *number* removes out of *now*, and out of what other TLBIs leave."""
        tlbi, post = posts.pop(number)
        for world in (now, *(world for _, world in posts.values())):
            clashing = () if tlbi.whole else self._clashing(world.entries)
            world.complete(tlbi, post.entries, clashing)

    def _quiet(self, before: Point, point: Point, reading: frozenset[int]) -> bool:
        """Whether no register or descriptor that this address depends on is other at *point* than
        *before*; *reading* are the stored-to locations that its walks read."""
        return point.registers[self.regime] is before.registers[
            self.regime
        ] and point.changed.isdisjoint(reading)

    def _clashing(self, entries: Entries) -> set[Entry]:
        """Entries that one lookup may hit together with an incompatible one: a TLBI by address or
        ASID need not remove them (R_BLRKC, I_JCCRT).

        Two values of one descriptor are a store without a break, which `ttbr.switch.lint` reports.
        """
        found: set[Entry] = set()
        for a, b in combinations(self._tagged(entries), 2):
            together = a.tag == b.tag or GLOBAL in (a.tag, b.tag)
            if a.location != b.location and together and self._conflict(a, b) == CONFLICT:
                found |= {a, b}
        return found

    def _tagged(self, entries: Iterable[Entry]) -> list[Leaf | Part]:
        """The entries that may conflict."""
        kinds = (Leaf, Part) if self.strict else (Leaf,)
        return [e for e in entries if isinstance(e, kinds)]

    def _conflict(self, a: Leaf | Part, b: Leaf | Part) -> str:
        """What two entries do to each other; partial walks only without A-IC: by the strict reading
        of I_HYQMB and I_CFFVK those that go on at one level in different tables conflict."""
        if isinstance(a, Leaf) and isinstance(b, Leaf):
            return conflict(a, b, self.va, self.bbm)
        if isinstance(a, Part) and isinstance(b, Part):
            return CONFLICT if a.level == b.level and a.table != b.table else ""
        return ""

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
        seen, visible = world.visible, point.visible[self.regime]
        if known and not borrowed and all(visible.get(at) == seen.get(at) for at in world.reading):
            return
        self.walker.touched.clear()
        entries = self.walker.close(world.entries, configs, visible, point.number)
        copies: Entries = {
            Copy(c.asid, at, value): Origin(point.number, c, None)
            for at in borrowed
            for value in visible.get(at) or (self.line.tables[at] or 0,)
            for c in configs
            if c.enabled and value & 1
        }
        if copies.keys() - entries.keys():
            entries = self.walker.close({**copies, **entries}, configs, visible, point.number)
        world.entries, world.configs, world.visible = entries, configs, visible
        world.reading = frozenset(self.walker.touched)

    def outcomes(self, number: int, ordered: bool = False) -> tuple[Outcome, ...]:
        """Everything that a lookup at point *number* may lead to.

        With *ordered* (FEAT_ETS2) faults come only from what the newest stores left.
        """
        number = self.alike[number]
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
        self.walker.close(entries, live, point.visible[self.regime], number, note)
        stops = note.stops
        if ordered:
            newest = Note()
            self.walker.close(entries, live, point.ordered[self.regime], number, newest)
            stops = [s for s in stops if s.kind != "fault"]
            stops += [s for s in newest.stops if s.kind == "fault"]
        yield from stops
        asids, decoders = set(), set()
        for c in live:
            match = [e for e in self._tagged(entries) if e.tag in (GLOBAL, c.asid)]
            if c.asid not in asids:
                asids.add(c.asid)
                for b, a in combinations(match, 2):
                    if kind := self._conflict(a, b):
                        yield Clash(kind, b, a, c)
            if (c.asid, c.decoder) not in decoders:
                decoders.add((c.asid, c.decoder))
                for leaf in match:
                    if isinstance(leaf, Leaf):
                        yield from self._hits(leaf, c)

    def _hits(self, leaf: Leaf, c: Config) -> Iterable[Hit]:
        """The lookup as cached, and with MAIR and WXN as they read now."""
        hit = Hit(leaf, c, leaf.translate(self.va), leaf.attr, leaf.permissions)
        yield hit
        attr, permissions = hit.fresh()
        if (attr, permissions) != (leaf.attr, leaf.permissions):
            yield Hit(leaf, c, hit.output, attr, permissions)

    def accessed(self, access: Access, number: int, ordered: bool) -> Iterable[Outcome]:
        """Everything that *access* may meet at point *number*: `outcomes`, and what depends on the
        access itself."""
        point = self.line.points[number]
        configs = self.line.configs(point, self.regime, self.upper)
        refused = [(c, why) for c in configs if (why := _refused(access, c))]
        for c, why in refused:
            yield Stop("fault", why, 0, c, None)
        if len(refused) == len(configs):
            return
        fields = point.registers[self.regime].fields
        if access.unaligned and 1 in fields["A"]:
            yield Stop("fault", UNALIGNED, 0, configs[-1], None)
        cached = fields["C"]
        for outcome in self.outcomes(number, ordered):
            if 0 in cached and isinstance(outcome, Hit) and not access.fetch and access.typed:
                if not is_device(outcome.attr):
                    yield outcome._replace(attr=NORMAL_NC)
                if 1 not in cached and not is_device(outcome.attr):
                    continue
            yield outcome


def _refused(access: Access, c: Config) -> str:
    """Why *access* faults under *c* whatever is mapped and cached, or an empty string."""
    p = c.p
    if access.tagged and not (p is not None and p.tbi):
        return f"the tag of {access.tagged:#x} is not ignored (TBI=0)"
    if p is not None and p.e0pd and access.need & (UR | UW | UX):
        return f"EL0 access with {p.name} is disabled (E0PD=1)"
    return ""


def _kinds(outcome: Outcome, access: Access, intent: Intent, on: bool) -> list[str]:
    """The verdict kinds of one outcome; none when it is what the intent says. *on*: SCTLR_ELx.M is
    1 once it is synchronized."""
    if isinstance(outcome, Stop):
        if outcome.kind == "junk":
            return [JUNK_WALK]
        meant = access.abort is not None or intent.pa is None
        return [] if meant or _may_fault(access, intent) else [FAULT]
    if isinstance(outcome, Clash):
        return [outcome.kind]
    if isinstance(outcome, Stale):
        return [JUNK_WALK if outcome.junk else UNKNOWN_TLB]
    need = access.need
    abort = access.abort
    if abort is not None and isinstance(outcome, Hit):
        return [] if need & ~outcome.permissions else [NO_FAULT]
    if outcome.output != intent.output(access.va & ~0xFFF):
        return [WRONG_PA]
    if access.landing and isinstance(outcome, Hit) and outcome.leaf.descriptor >> _GP & 1:
        return [FAULT]
    device = isinstance(outcome, Flat) or is_device(outcome.attr)
    if access.normal and device and not _may_fault(access, intent):
        return [FAULT]
    if isinstance(outcome, Flat):
        if abort is not None:  # of an ISB that is executed: what is behind it faults in its place
            return [] if abort.isb and on else [NO_FAULT]
        normal = not access.fetch and access.typed and not is_device(intent.attr)
        return [ATTR] if outcome.mixed and normal else []
    kinds = []
    if outcome.attr != intent.attr and access.typed:
        kinds.append(ATTR)
    denied = need & ~outcome.permissions or outcome.permissions & access.barred
    # A fetch from Device memory is unpredictable even where that is what is meant (B2.10).
    if (denied and not _may_fault(access, intent)) or (access.fetch and device and not kinds):
        kinds.append(PERM)
    return kinds


def _may_fault(access: Access, intent: Intent) -> bool:
    """Whether a fault here is as good as no fault. It is not where the program goes on with the
    instruction: a fetch has to be marked (`Access.abort`)."""
    return intent.fault and not access.fetch


def judge(piece: Slice, access: Access, intent: Intent) -> list[Finding]:
    """What can go wrong with *access*: the first finding of each kind."""
    options = piece.line.problem.options
    ordered = options.ets2 and not access.fetch
    first = access.now if ordered else access.since
    found: dict[str, Finding] = {}
    last = piece.line.points[access.now].registers[piece.regime].fields
    on = bool(last["M"][-1])
    last_alike = -1
    for number in range(first, access.now + 1):
        if piece.alike[number] == last_alike:
            continue
        last_alike = piece.alike[number]
        for outcome in piece.accessed(access, number, ordered):
            for kind in _kinds(outcome, access, intent, on):
                if kind not in found:
                    found[kind] = Finding(kind, access, number, outcome, intent, piece)
    return list(found.values())
