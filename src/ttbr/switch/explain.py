"""Why a trace is unsafe, what would repair it, and which barriers a proof rests on.

`explain` follows the provenance of a finding back to the walks that made its entries, `repair`
searches the smallest single insertion or move that makes the trace safe, and `drop_one` says of
each barrier whether the proof stands without it. All are checked by proving the changed trace.
`ttbr.switch.wording` turns the results into text.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from ttbr.arch.regime import EL1, EL2, EL20
from ttbr.errors import InvalidError
from ttbr.switch.configs import Config
from ttbr.switch.judge import UNALIGNED, Clash, Finding, Flat, Hit, Slice, Stale
from ttbr.switch.problem import Problem, regime_at
from ttbr.switch.program import Dc, Dmb, Dsb, Event, Isb, Step, Store, Tlbi
from ttbr.switch.prove import SAFE, Result, prove, prove_all
from ttbr.switch.saturate import Stop
from ttbr.switch.tlb import (
    JUNK,
    LEAVES_ONLY,
    OTHER_ADDRESS,
    OTHER_ASID,
    STAGE2_ONLY,
    UNKNOWN,
    UNKNOWN_STAYS,
    WRONG_HINT,
    Entry,
    Leaf,
    Part,
    spared,
)
from ttbr.switch.tlbi import tlbi_by_name

__all__ = [
    "Barrier",
    "Explanation",
    "Fetched",
    "History",
    "Repair",
    "drop_one",
    "explain",
    "repair",
]


class Fetched(NamedTuple):
    """One descriptor that a walk read: *value* at *location*, at lookup *level*."""

    level: int
    location: int
    value: int


@dataclass(frozen=True, slots=True)
class History:
    """How one entry came to be, and what it went through until it was used.

    It was made at point `point`, after step `step` (-1: before the first), by a walk under `config`
    that read `path`. `resumed` is the partial walk that it went on from, when that was made earlier
    or under other registers. `survived` are the steps of later TLBIs that need not remove it, with
    the reason. `junk` is the address that the walk read where no table is.
    """

    entry: Entry
    point: int
    step: int
    config: Config | None
    path: tuple[Fetched, ...]
    resumed: "History | None"
    survived: tuple[tuple[int, str], ...]
    junk: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A finding with the histories of the entries that it needs, and the rules that allow it."""

    finding: Finding
    histories: tuple[History, ...]
    rules: tuple[str, ...]


# What each kind rests on, besides the rules of the entries themselves.
_RULES: dict[str, tuple[str, ...]] = {
    "WRONG-PA": ("R_NWYRD entries are not tagged by TTBR or TCR",),
    "ATTR": (),
    "FAULT": ("I_YGYRY an entry is never guaranteed to stay, so a walk is always possible",),
    "PERM": (),
    "NO-FAULT": ("D8.1.9 only an address out of range, or not mapped, is sure to fault",),
    "CONFLICT": ("R_WHZWS changes that need break-before-make", "K1.2.3 what a conflict may do"),
    "CONFLICT-ABORT": ("I_HYQMB, R_FCPSG aborts that FEAT_BBM still permits",),
    "JUNK-WALK": ("D8.3 a descriptor's type depends on the level at which it is read",),
    "UNKNOWN-TLB": ("R_BQCDZ reset does not invalidate TLB entries",),
    "BBM": ("R_WHZWS changes that need break-before-make", "R_DDMVT the sequence"),
}


AGAIN = "cached again before it completed"
OLD_AGAIN = "cached again before it completed, under registers that are not synchronized yet"
PENDING, CLASHED = "not completed by a DSB", "not sure to be removed: it conflicts with another"
_SURVIVAL = {
    AGAIN: "R_TGVWD a TLBI guarantees nothing before its DSB",
    OLD_AGAIN: "R_VNRFW a TLBI counts after the synchronization of what it is for",
    PENDING: "R_PSMWS only a DSB completes a TLBI",
    CLASHED: "R_BLRKC only a TLBI of everything is sure to remove conflicting entries",
    UNKNOWN_STAYS: "R_BQCDZ only a TLBI of everything is sure to remove them",
    STAGE2_ONLY: "C5.5 TLBI IPAS2E1: stage 2 only",
    OTHER_ASID: "R_MMZTY more than the guaranteed scope may go, and need not",
    OTHER_ADDRESS: "R_MMZTY more than the guaranteed scope may go, and need not",
    WRONG_HINT: "R_SQXYZ, R_XKMMX a wrong level hint or granule removes nothing for sure",
    LEAVES_ONLY: "R_JXKNN the last-level forms leave partial walks",
}
_OTHER_REGIME = "C5.5 a TLBI acts on one regime: by its name, and where it is executed"


def explain(finding: Finding) -> Explanation:
    """The histories behind *finding*."""
    piece, outcome = finding.slice, finding.outcome
    number = max(finding.point - 1, 0) if finding.kind == "BBM" else finding.point
    at = outcome.location if isinstance(outcome, Stop) and outcome.location is not None else -1
    entries: list[Entry] = []
    if isinstance(outcome, Hit):
        entries = [outcome.leaf]
    elif isinstance(outcome, Clash):
        entries = [outcome.a, outcome.b]
    elif isinstance(outcome, Stop) and outcome.parent is not None:
        entries = [outcome.parent]
    elif isinstance(outcome, Stale):
        entries = [JUNK if outcome.junk else UNKNOWN]
    world = piece.worlds[number]
    histories = tuple(_history(piece, e, number) for e in entries if e in world)
    rules = [*_by_outcome(finding), *_by_control(finding)]
    if any(isinstance(e, Leaf) and e.tag is None for e in entries) and piece.regime != EL2:
        rules.append("R_QGKGF a global entry matches every ASID")
    if any(isinstance(e, Part) for e in entries):
        rules.append("R_RVJDB partial walks are cached")
    reasons = (why for history in histories for _, why in history.survived)
    rules += [_SURVIVAL.get(why, _OTHER_REGIME) for why in reasons]
    visible = piece.line.points[number].visible[piece.regime]
    if isinstance(outcome, Stop) and len(visible.get(at, ())) > 1:
        rules.append("R_SPVBD a walk is sure to see a store only after a DSB")
        rules.append("R_XGXKR and after cache maintenance, where it is not cached alike")
    if finding.access.since != finding.access.now and finding.point < finding.access.now:
        rules.append("B2.7.4.2 a translation may be as old as the last context synchronization")
    return Explanation(finding, histories, tuple(dict.fromkeys(rules)))


def _by_outcome(finding: Finding) -> tuple[str, ...]:
    """What the kind rests on; a fault may come before any walk."""
    outcome, access = finding.outcome, finding.access
    if finding.kind == "FAULT":
        if access.landing and isinstance(outcome, Hit):
            return ("FEAT_BTI (GP=1): an indirect branch into a guarded page must land on BTI",)
        if isinstance(outcome, Flat | Hit):
            return ("B2.10 an access that is not aligned, or DC ZVA, faults on Device memory",)
        if isinstance(outcome, Stop) and outcome.reason == UNALIGNED:
            return ("D24 SCTLR_ELx.A=1: every unaligned access faults",)
        if access.tagged and isinstance(outcome, Stop) and outcome.location is None:
            return ("D8.8 an address with a tag is out of range where TCR_ELx.TBI is 0",)
        if isinstance(outcome, Stop) and outcome.config.p is None:
            return ("D24 the register's page: this value is reserved, or out of range",)
    if (
        finding.kind == "PERM"
        and access.fetch
        and isinstance(outcome, Hit)
        and not access.need & ~outcome.permissions
    ):
        return ("B2.10 fetches from Device memory that is not execute-never are unpredictable",)
    return _RULES[finding.kind]


def _by_control(finding: Finding) -> Iterator[str]:
    """The registers and the PSTATE field that a memory type or permission comes from."""
    piece, outcome, access = finding.slice, finding.outcome, finding.access
    if finding.kind not in ("ATTR", "PERM") or not isinstance(outcome, Flat | Hit):
        return
    fields = piece.line.points[finding.point].registers[piece.regime].fields
    attr = finding.kind == "ATTR"
    names = ("M", "C", "MAIR") if attr else ("WXN",)
    if any(len(fields[name]) > 1 for name in names):
        yield "K1.2.4 unsynchronized registers"
    if isinstance(outcome, Flat):
        yield "R_WFZPW data is Device-nGnRnE with the MMU off"
        return
    leaf, fresh = outcome.leaf, outcome.fresh()
    if attr:
        if outcome.attr not in (leaf.attr, fresh[0]):
            yield "SCTLR_ELx.C=0 makes data accesses to Normal memory Non-cacheable"
        elif outcome.attr != fresh[0]:
            yield "R_VNRFW MAIR_ELx is permitted to be cached in a TLB"
        else:
            yield "D8.6 the memory type is that of the descriptor's index in MAIR_ELx"
    elif access.fetch and not access.need & ~outcome.permissions:
        return
    elif access.need & outcome.permissions:
        yield "D8.4.3 PSTATE.PAN=1 bars privileged data accesses to what EL0 may access"
    elif outcome.permissions != fresh[1]:
        yield "R_VNRFW SCTLR_ELx.WXN is permitted to be cached in a TLB"
    else:
        yield "D8.4 access permissions, with SCTLR_ELx.WXN"


def _history(piece: Slice, entry: Entry, number: int) -> History:
    origin = piece.worlds[number][entry]
    points = piece.line.points
    path: list[Fetched] = []
    resumed: History | None = None
    made = origin
    walk: Entry | None = origin.parent if origin.junk is not None else entry
    while isinstance(walk, Leaf | Part):
        level = walk.level if isinstance(walk, Leaf) else walk.level - 1
        path.append(Fetched(level, walk.location, walk.descriptor))
        # What led there may be gone by now, and was there when the entry was made.
        then = piece.worlds[number].get(walk) or piece.worlds[made.point].get(walk)
        if then is None or then.parent is None:
            break
        made, parent = then, then.parent
        older = piece.worlds[number].get(parent)
        if older is not None and (older.config is not origin.config or older.point < origin.point):
            resumed = _history(piece, parent, number)
            break
        walk = parent
    survived = [
        (p.step, why)
        for p in points[: number + 1]
        if p.issued is not None and (why := _survives(piece, entry, p.number, number, origin.point))
    ]
    step = points[origin.point].step
    return History(
        entry,
        origin.point,
        step,
        origin.config,
        tuple(reversed(path)),
        resumed,
        tuple(survived),
        origin.junk,
    )


def _survives(piece: Slice, entry: Entry, issue: int, now: int, made: int) -> str:
    """Why the TLBI issued at point *issue* leaves *entry*, made at point *made*, in place at
    *now*; nothing when the entry is younger than its completion."""
    points = piece.line.points
    tlbi = points[issue].issued
    assert tlbi is not None
    if tlbi.regime != piece.regime:
        return f"it acts on {tlbi.regime}, not on {piece.regime}" if made < issue else ""
    done = [p.number for p in points[issue : now + 1] if tlbi.number in p.completed]
    if made >= issue:
        if done and made >= done[0]:
            return ""
        now_read = points[made].registers[piece.regime]
        several = len(now_read.pairs) > 1 or any(len(v) > 1 for v in now_read.fields.values())
        return OLD_AGAIN if several else AGAIN
    if why := spared(tlbi, entry):
        return why
    if not done:
        return PENDING
    # What it removes and is there all the same clashed with another entry.
    return CLASHED if entry in piece.worlds[done[0]] else ""


@dataclass(frozen=True, slots=True)
class Repair:
    """A change of the trace that makes it safe: `what` is ``insert``, ``move`` or ``replace``,
    `texts` the instructions, before step `step` or in its place; a moved instruction was step
    `origin`. `verdict` says what the changed trace rests on."""

    what: str
    texts: tuple[str, ...]
    step: int
    origin: int | None
    problem: Problem
    verdict: str = SAFE


_BARRIERS: dict[str, Event] = {"isb": Isb(), "dsb": Dsb("SY"), "dmb": Dmb("SY")}
# At least so many proofs; more while steps, points and slices together are no more than this.
_LEAST, _WORK = 20, 3_000_000
_MOST_LINES = 16  # cache lines that one repair maintains
_ALL_TLBI = {EL1: "VMALLE1", EL2: "ALLE2", EL20: "ALLE2"}


def _all_tlbi(problem: Problem, regime: str) -> str:
    """The TLBI of everything; for all PEs where the trace has such a TLBI."""
    events = (event for step in problem.steps for event in step.events)
    wide = any(isinstance(e, Tlbi) and e.op.shareability != "NSH" for e in events)
    return f"tlbi {_ALL_TLBI[regime].lower()}{'is' if wide else ''}"


def _candidates(problem: Problem) -> Iterator[tuple[str, ...]]:
    """What to insert anywhere, smallest first."""
    regimes = list(dict.fromkeys(regime_at(step) for step in problem.steps))
    tlbis = [_all_tlbi(problem, regime) for regime in regimes]
    yield ("isb",)
    yield ("dsb sy",)
    for tlbi in tlbis:
        yield (tlbi,)
    yield ("dsb sy", "isb")
    for tlbi in tlbis:
        yield (tlbi, "dsb sy")
        yield (tlbi, "dsb sy", "isb")
        yield ("dsb sy", tlbi, "dsb sy", "isb")
        yield ("isb", tlbi, "dsb sy", "isb")


def _breaks(result: Result) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Before each store that the break-before-make lint names: the break."""
    for finding in result.findings:
        step = result.problem.steps[min(finding.access.step, len(result.problem.steps) - 1)]
        stores = [e for e in step.events if isinstance(e, Store)]
        if finding.kind == "BBM" and len(stores) == 1:
            tlbi = _all_tlbi(result.problem, finding.access.regime)
            texts = (f"str xzr, [{stores[0].va:#x}]", "dsb sy", tlbi, "dsb sy")
            yield finding.access.step, texts


def _cleans(result: Result) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Behind each store to a table, the last one first: maintenance of the lines stored to so far,
    in the order that D7.5.9 and R_XGXKR ask for."""
    stores = [(p.step, p.stored) for p in result.timeline.points if p.stored]
    line = result.problem.options.line
    for last in range(len(stores), 0, -1):
        steps = [result.problem.steps[step] for step, _ in stores[:last]]
        stored = (e.va for step in steps for e in step.events if isinstance(e, Store))
        lines = dict.fromkeys(va & -line for va in stored)
        if len(lines) <= _MOST_LINES:
            cleans = (f"dc civac, [{va:#x}]" for va in lines)
            yield stores[last - 1][0] + 1, ("dmb sy", *cleans, "dsb sy")


def _events(text: str) -> tuple[Event, ...]:
    name, _, argument = text.partition(" ")
    address = argument.partition("[")[2].rstrip("]")
    if name == "str":
        return (Store(int(address, 16), 8, 0),)
    if name == "dc":
        return (Dc("CIVAC", int(address, 16)),)
    if name in _BARRIERS:
        return (_BARRIERS[name],)
    op = tlbi_by_name(argument)
    if op is None:
        raise InvalidError(f"{text}: no such TLBI")
    return (Tlbi(op, 0),)


def _inserted(problem: Problem, at: int, texts: tuple[str, ...]) -> Problem:
    """The problem with *texts* before step *at*, fetched from there."""
    here = problem.steps[at]
    new = [replace(here, text=text, where="inserted", events=_events(text)) for text in texts]
    return replace(problem, steps=(*problem.steps[:at], *new, *problem.steps[at:]))


def _is_barrier(step: Step) -> bool:
    return len(step.events) == 1 and isinstance(step.events[0], Isb | Dsb | Tlbi)


def _moved(problem: Problem, origin: int, to: int) -> Problem:
    """The problem with step *origin* done before step *to*; the addresses stay in order."""
    steps = list(problem.steps)
    order = [*range(len(steps))]
    order.remove(origin)
    order.insert(to if to < origin else to - 1, origin)
    low, high = min(origin, to), max(origin + 1, to)
    for place in range(low, high):
        source = problem.steps[order[place]]
        at = problem.steps[place]
        steps[place] = replace(source, pc=at.pc, el=at.el, hcr=at.hcr)
    return replace(problem, steps=tuple(steps))


class _Search:
    """Proves changed traces until one is safe or `left` proofs are spent."""

    def __init__(self, result: Result, limit: int) -> None:
        self.problem = result.problem
        steps = self.problem.steps
        size = len(steps) * len(result.timeline.points) * len(result.slices)
        self.left = min(limit, max(_LEAST, _WORK // size))
        self.last = min(max(f.access.step for f in result.findings), len(steps) - 1)
        # Right behind an instruction with an effect: between two of those all places are alike.
        behind = [i + 1 for i in range(self.last) if steps[i].events]
        self.places = [*reversed(behind), 0]

    def safe(self, problem: Problem) -> bool:
        self.left -= 1
        try:
            return self.left >= 0 and prove(problem).safe
        except InvalidError:  # the change makes a program that cannot be judged
            return False

    def insert(self, places: Iterable[int], texts: tuple[str, ...]) -> Repair | None:
        for at in places:
            changed = _inserted(self.problem, at, texts)
            if self.safe(changed):
                return Repair("insert", texts, at, None, changed)
        return None

    def replace_last_level(self) -> Repair | None:
        """A TLBI of leaves made one of all levels."""
        for at, step in enumerate(self.problem.steps):
            for event in step.events:
                if not isinstance(event, Tlbi) or not event.op.kind.last_level:
                    continue
                name = event.op.name
                wider = tlbi_by_name(name.replace("VAAL", "VAA").replace("VAL", "VA"))
                if wider is None:
                    continue
                text = step.text.lower().replace(name.lower(), wider.name.lower())
                new = replace(step, text=text, events=(replace(event, op=wider),))
                steps = (*self.problem.steps[:at], new, *self.problem.steps[at + 1 :])
                changed = replace(self.problem, steps=steps)
                if self.safe(changed):
                    return Repair("replace", (text,), at, None, changed)
        return None

    def move(self) -> Repair | None:
        steps = self.problem.steps
        for origin in range(len(steps)):
            if not _is_barrier(steps[origin]):
                continue
            for to in (self.last + 1, *self.places):
                if to in (origin, origin + 1) or not _straight(steps, origin, to):
                    continue
                changed = _moved(self.problem, origin, to)
                if self.safe(changed):
                    return Repair("move", (steps[origin].text,), to, origin, changed)
        return None


def repair(result: Result, limit: int = 2000) -> Repair | None:
    """The smallest change that makes an unsafe trace safe, or None where none of them does.

    Tried in turn: a TLBI of leaves made one of all levels, one instruction more, the break before a
    store, cache maintenance behind one, one barrier moved within straight-line code, several
    instructions more. An insertion as late as possible is preferred: it
    leaves the most of the trace as it was. Where the result is safe under an assumption only, and
    one ISB more makes it safe without, that belongs to it. *limit* bounds the number of proofs.
    """
    found = _smallest(result, limit)
    if found is None:
        return None
    verdict = prove_all(found.problem).verdict
    if verdict != SAFE and found.what == "insert" and found.texts[-1] != "isb":
        texts = (*found.texts, "isb")
        changed = _inserted(result.problem, found.step, texts)
        if prove_all(changed).verdict == SAFE:
            return Repair("insert", texts, found.step, None, changed)
    return replace(found, verdict=verdict)


def _smallest(result: Result, limit: int) -> Repair | None:
    search = _Search(result, limit)
    candidates = list(_candidates(result.problem))
    if (found := search.replace_last_level()) is not None:
        return found
    for texts in candidates:
        if len(texts) == 1 and (found := search.insert(search.places, texts)) is not None:
            return found
    for at, texts in (*_breaks(result), *_cleans(result)):
        if (found := search.insert([at], texts)) is not None:
            return found
    if (found := search.move()) is not None:
        return found
    for texts in candidates:
        if len(texts) > 1 and (found := search.insert(search.places, texts)) is not None:
            return found
    return None


def _straight(steps: tuple[Step, ...], a: int, b: int) -> bool:
    """Whether the steps from *a* to *b* follow each other without a branch."""
    low, high = min(a, b), min(max(a, b), len(steps) - 1)
    return all(steps[i + 1].pc == steps[i].pc + 4 for i in range(low, high))


@dataclass(frozen=True, slots=True)
class Barrier:
    """One ISB, DSB or TLBI of a safe trace: `kinds` is what goes wrong without it, `assuming` what
    the proof without it rests on beyond the assumptions of the whole; both are empty where it is
    redundant for this proof."""

    step: int
    text: str
    kinds: tuple[str, ...]
    assuming: tuple[str, ...] = ()

    @property
    def carries(self) -> bool:
        return bool(self.kinds or self.assuming)


def drop_one(problem: Problem) -> tuple[Barrier, ...]:
    """For each barrier of *problem*: does the proof stand without it, with no more assumptions?"""
    found = []
    rests = prove_all(problem).assuming
    for number, step in enumerate(problem.steps):
        if not any(isinstance(event, Isb | Dsb | Tlbi) for event in step.events):
            continue
        rest = tuple(e for e in step.events if not isinstance(e, Isb | Dsb | Tlbi))
        steps = (*problem.steps[:number], replace(step, events=rest), *problem.steps[number + 1 :])
        proof = prove_all(replace(problem, steps=steps))
        more = tuple(name for name in proof.assuming if name not in rests)
        found.append(Barrier(number, step.text, proof.result.kinds, more))
    return tuple(found)
