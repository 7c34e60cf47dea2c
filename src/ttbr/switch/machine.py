"""The proof machine: its theory, its transition rules, and the interpreter that runs them.

Theory of operation
===================

A TLB may do almost anything: cache what it likes, when it likes, drop it again, keep half a walk
and continue it much later under other registers. The proof therefore does not follow one behaviour
but keeps, at every point of the program, the set of all entries that *may* be present, and asks at
each access for every outcome that these entries and a fresh walk allow. Nothing is ever assumed to
be present (I_YGYRY), so the set only matters for the outcomes that it adds.

Three facts make one forward pass exact, without a search over interleavings:

* An unsynchronized register field may read as its old or its new value at every single use,
  independently (K1.2.4), so there is no correlation to lose.
* Caching and eviction are choices for each entry alone.
* Between two completed TLBIs the sets only grow.

A program is a sequence of *points*: point 0 is before the first step, and every event that changes
something of the state below makes another. At each point where a regime may walk, its TLB is
*saturated*: everything that any walk under any permitted register values may cache is added, until
nothing new appears (R_SQBCS, I_RCGCH). `ttbr.switch.saturate` does it, for one address at a time,
since an entry matters only to the addresses that it covers; this module keeps what is common to all
addresses.

    registers     each field is a list: the value at the last context synchronization event, then
                  every later one. TTBR0 and TTBR1 are read as a pair (R_DYDPX).
    memory        each stored-to descriptor is a list of writes. A walk may see any of them from
                  the newest that a DSB has completed on (R_TGRMW, R_SPVBD):
                  WRITTEN --DC--> CLEAN --DSB--> COMPLETE. A store starts CLEAN when its
                  cacheability is that of the walks, else it needs cache maintenance (R_XGXKR);
                  see `ttbr.switch.writes`.
    pending       TLBIs that no DSB has completed. At its issue a TLBI starts a second set for the
                  TLB, *post*: what it does not remove, and from then on whatever walks add. At its
                  completion what it removes leaves the TLB, but for what is in post. So a walk that
                  still uses an old register or an old descriptor after the TLBI makes it worthless,
                  and what was made from an entry before it went stays, if it covers other
                  addresses: the architecture guarantees nothing before the DSB (R_TGVWD).
    walking       whether the regime may walk: IN context, DRAINING after an exception to EL2 until
                  a DSB, or OUT (R_NRJPP, R_LFHQG).
    since         the point of the last context synchronization event. A fetch may have been
                  translated at any point from there on (B2.7.4.2); so may a data access without
                  FEAT_ETS2. Each of these points is judged by itself: a fetch that saw SCTLR.M=1
                  was translated after M was written.

With the MMU off nothing is cached or looked up, and the content of the TLB survives (R_NDCMB).

Other PEs are present only as declared registers that share entries (CnP), stage 2 not at all: an
entry would gain a VMID and a stage, and each PE a set and a *post* of its own.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace

from ttbr.arch.attributes import NORMAL_WB, is_device
from ttbr.arch.registers import REGISTERS
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.switch import program
from ttbr.switch.configs import ROWS, RegimeRow, initial_fields, sctlr_fields
from ttbr.switch.descriptors import TableMemory
from ttbr.switch.problem import A_CTRL, A_DSB, Intent, IntentMap, Problem, regime_at
from ttbr.switch.program import At, Dc, Dmb, Dsb, Eret, ExceptionEntry, Isb, Msr, Step, Store, Tlbi
from ttbr.switch.state import DRAINING, IN, OUT, Pending, Point, Registers, stuck, with_sticky
from ttbr.switch.sysregs import TRANSLATION_REGISTERS
from ttbr.switch.tlb import Invalidation
from ttbr.switch.writes import MAINTENANCE, Writes
from ttbr.walk.at import at_regime

__all__ = ["RULES", "Machine", "Rule"]

_CACHEABILITY = ("IRGN0", "ORGN0", "IRGN1", "ORGN1")


@dataclass(frozen=True, slots=True)
class Rule:
    """One transition: on `event`, where `when` holds of it, do `effect` (a method of `Machine`)."""

    event: type
    when: str
    effect: str
    does: str
    source: str


RULES: tuple[Rule, ...] = (
    Rule(Msr, "TTBRn_ELx", "append_pair", "the pair (TTBR0, TTBR1) gains a value", "R_DYDPX"),
    Rule(Msr, "TCR_ELx", "append_fields", "each changed field gains a value", "K1.2.4"),
    Rule(Msr, "SCTLR_ELx", "append_fields", "M, WXN and C gain a value", "K1.2.4"),
    Rule(Msr, "MAIR_ELx", "append_fields", "the register gains a value", "K1.2.4"),
    Rule(Msr, "not modelled", "refuse", "a proof cannot go on", "D24, of the register"),
    Rule(Isb, "always", "synchronize", "registers keep their last value", "D24.1.2.2"),
    Rule(ExceptionEntry, "synchronizing", "synchronize", "as ISB", "D24.1.2.2, SCTLR.EIS"),
    Rule(ExceptionEntry, "within the trace", "change_regime", "walks drain", "R_NRJPP, I_QVPYJ"),
    Rule(Eret, "synchronizing", "synchronize", "as ISB", "D24.1.2.2, SCTLR.EOS"),
    Rule(Eret, "always", "change_regime", "another regime walks, the old one drains", "R_LFHQG"),
    Rule(Store, "to a table", "write", "the descriptor gains a value", "R_TGRMW, R_XGXKR"),
    Rule(Dc, "by address to PoC", "maintain", "writes of the line: WRITTEN to CLEAN", "I_TXCPH"),
    Rule(Dc, "invalidates all", "discard", "writes that are in the cache only are lost", "D7.5.9"),
    Rule(Dmb, "full", "order", "maintenance to come follows the stores", "D7.5.9"),
    Rule(Dmb, "not LD", "order_stores", "stores to come follow the stores", "B2.3"),
    Rule(Dsb, "not LD", "order_stores", "stores to come follow the stores", "B2.3"),
    Rule(Dsb, "not LD", "order", "maintenance to come follows the stores", "D7.5.9"),
    Rule(Dsb, "not LD", "complete_writes", "writes: CLEAN to COMPLETE", "R_SPVBD"),
    Rule(Dsb, "full", "complete_tlbis", "the TLB loses what TLBIs removed", "R_PSMWS, R_YNJCP"),
    Rule(Dsb, "full", "drain", "DRAINING walks end", "R_LFHQG"),
    Rule(At, "always", "walk_once", "a regime out of context walks, this once", "I_RCGCH"),
    Rule(Tlbi, "always", "issue", "a TLBI is pending, with its own post set", "R_TGVWD"),
)
"""What each event does, in order. Events without a rule (IC, loads, branches) change nothing of the
state; loads, stores, DC and IC by address are accesses that `ttbr.switch.timeline` lists."""


class Machine:
    """The interpreter of `RULES`: `run` applies an event, `snapshot` makes it a point."""

    def __init__(
        self, problem: Problem, tables: TableMemory, intents: Mapping[str, IntentMap]
    ) -> None:
        self.problem, self.tables, self.intents = problem, tables, intents
        self.options = problem.options
        first = problem.steps[0]
        here = regime_at(first)
        self.regimes: dict[str, Registers] = {}
        for regime in {regime_at(step) for step in problem.steps}:
            row = ROWS[regime]
            walking = IN if regime == here else DRAINING
            fields = initial_fields(row, problem.registers)
            disabled = [fields.get(f"EPD{n}") == (1,) for n in range(len(row.ttbrs))]
            for name, off in zip(row.ttbrs, disabled, strict=True):
                if name not in problem.registers and not off:
                    raise InvalidError(f"register {name} is missing")
            pair = tuple(problem.registers.get(name, 0) for name in row.ttbrs)
            self.regimes[regime] = Registers(((*pair, 0)[:2],), fields, walking)  # type: ignore[arg-type]
        self.foreign = {name: self._foreign(name) for name in self.regimes}
        self.writes = Writes(tables, self.options.line)
        self.pending: tuple[Pending, ...] = ()
        # What `stick` has done of a regime: for which values of its fields, up to which TLBI.
        self._stuck: dict[str, tuple[Mapping[str, tuple[int, ...]], int]] = {}
        self.number = 0
        self._clear()

    def _clear(self) -> None:
        self.changed = False
        self.synchronized = False
        self.asked = ""
        self.issued: Invalidation | None = None
        self.completed: list[int] = []
        self.stored: list[tuple[int, int]] = []

    def run(self, step: Step, event: program.Event) -> None:
        """Apply every rule of *event*; afterwards `changed` and `synchronized` tell what it did."""
        self._clear()
        for rule in RULES:
            if isinstance(event, rule.event) and _WHEN[rule.when](self, step, event):
                getattr(self, rule.effect)(step, event)
        if not self.options.assumptions >= {A_CTRL}:
            self.stick()

    def snapshot(self, step: int, cause: str) -> Point:
        """The current state as a point."""
        walks = {name: self._walk_cacheability(name) for name in self.regimes}
        point = Point(
            self.number,
            step,
            cause,
            {
                name: replace(now, walking=IN) if name == self.asked else now
                for name, now in self.regimes.items()
            },
            {name: self.writes.visible(kinds) for name, kinds in walks.items()},
            {name: self.writes.ordered(kinds) for name, kinds in walks.items()},
            self.writes.changes(),
            self.issued,
            tuple(self.completed),
            tuple(self.stored),
            self.pending,
        )
        self.number += 1
        return point

    # The effects, in the order of RULES.

    def append_pair(self, step: Step, event: Msr) -> None:
        for regime, now in self.regimes.items():
            names = ROWS[regime].ttbrs
            if event.register in names:
                pair = list(now.pairs[-1])
                pair[names.index(event.register)] = _value(step, event)
                if tuple(pair) not in now.pairs[-1:]:
                    self._set(regime, pairs=(*now.pairs, (pair[0], pair[1])))

    def append_fields(self, step: Step, event: Msr) -> None:
        value = _value(step, event)
        for regime, now in self.regimes.items():
            row, fields = ROWS[regime], dict(now.fields)
            if event.register == row.tcr:
                new = {f.name: f.get(value) for f in row.fields.fields} | {"TCR": value}
            elif event.register == row.sctlr:
                if REGISTERS["SCTLR_EL1"]["EE"].get(value):
                    raise UnsupportedError(f"{step}: {row.sctlr}.EE=1 is not modelled")
                new = sctlr_fields(value)
            elif event.register == row.mair:
                new = {"MAIR": value}
            else:
                continue
            for name, item in new.items():
                if fields[name][-1] != item:
                    fields[name] = (*fields[name], item)
            if fields != now.fields:
                self._set(regime, fields=fields)

    def refuse(self, step: Step, event: Msr) -> None:
        """Another register that controls stage 1 translation: it must stay as it is."""
        if event.value != self.problem.registers.get(event.register, 0):
            raise UnsupportedError(f"{step}: a change of {event.register} is not modelled")

    def synchronize(self, step: Step, event: object) -> None:
        self.synchronized = True
        for regime, now in self.regimes.items():
            if len(now.pairs) > 1 or any(len(values) > 1 for values in now.fields.values()):
                fields = {name: values[-1:] for name, values in now.fields.items()}
                self._set(regime, pairs=now.pairs[-1:], fields=fields)
        self._finish([p for p in self.pending if p.ordered])

    def change_regime(self, step: Step, event: ExceptionEntry | Eret) -> None:
        """EL0 of a host (HCR_EL2.{E2H,TGE} = 1) has the regime of EL2."""
        to = regime_at(replace(step, el=event.el))
        if to not in self.regimes:
            return
        for regime, now in self.regimes.items():
            if regime == to and now.walking != IN:
                self._set(regime, walking=IN)
            elif regime != to and now.walking == IN:
                self._set(regime, walking=DRAINING)

    def write(self, step: Step, event: Store) -> None:
        regime = regime_at(step)
        pa, intent = self.locate(step, event.va)
        if event.unaligned:
            raise UnsupportedError(f"{step}: an unaligned store to the table at {pa:#x}")
        if event.value is None:
            raise InvalidError(f"{step}: stores an unknown value to the table at {pa:#x}")
        attr = intent.attr if intent is not None else NORMAL_WB
        fields = self.regimes[regime].fields
        enabled = {bool(m and c) for m in fields["M"] for c in fields["C"]}
        cached = {on and by for on in enabled for by in _cached(attr)}
        self.stored = self.writes.store(pa, event.size, event.value, cached)
        self.changed = True

    def maintain(self, step: Step, event: Dc) -> None:
        pa, _ = self.locate(step, event.operand)
        self.changed |= self.writes.maintain(pa, MAINTENANCE[event.op])

    def discard(self, step: Step, event: Dc) -> None:
        self.changed |= self.writes.discard()

    def order(self, step: Step, event: Dmb | Dsb) -> None:
        self.writes.order()

    def order_stores(self, step: Step, event: Dmb | Dsb) -> None:
        self.writes.order_stores()

    def complete_writes(self, step: Step, event: Dsb) -> None:
        self.changed |= self.writes.complete()

    def complete_tlbis(self, step: Step, event: Dsb) -> None:
        done = [p for p in self.pending if p.tlbi.completed_by(event.domain, event.kind, event.nxs)]
        if A_DSB in self.options.assumptions:
            self._finish(done)
        elif any(not p.ordered for p in done):
            numbers = {p.tlbi.number for p in done}
            self.pending = tuple(
                replace(p, ordered=True) if p.tlbi.number in numbers else p for p in self.pending
            )

    def drain(self, step: Step, event: Dsb) -> None:
        for regime, now in self.regimes.items():
            if now.walking == DRAINING:
                self._set(regime, walking=OUT)

    def walk_once(self, step: Step, event: At) -> None:
        """AT is no speculation, which R_LFHQG forbids out of context: what it walks may be cached.
        Taken as a walk of any address, which errs on the side of UNSAFE."""
        regime = at_regime(event.op, {"HCR_EL2": step.hcr})
        if regime in self.regimes and self.regimes[regime].walking == OUT:
            self.asked = regime
            self.changed = True

    def issue(self, step: Step, event: Tlbi) -> None:
        regime = event.op.regime(step.el, step.hcr)
        if regime not in self.regimes:
            return
        fields = self.regimes[regime].fields
        try:
            scope = event.op.scope(event.operand, bool(fields["DS"][-1]))
        except InvalidError as error:
            raise InvalidError(f"{step}: {error}") from None
        if scope.asid is not None and not fields.get("AS", (1,))[-1]:
            scope = replace(scope, asid=scope.asid & 0xFF)
        tlbi = Invalidation(self.number, regime, event.op, scope)
        sticky = {} if tlbi.whole else self.regimes[regime].sticky
        self.pending = (*self.pending, Pending(tlbi, sticky))
        self.issued = tlbi
        self.changed = True

    def stick(self) -> None:
        """Without A-CTRL: what a walk may use now, it may keep until a TLBI of the regime."""
        for regime, now in self.regimes.items():
            if now.walking == OUT or 1 not in now.fields["M"]:
                continue
            fields, known = self._stuck.get(regime, (None, -1))
            newest = self.pending[-1].tlbi.number if self.pending else -1
            if fields is not now.fields:
                known = -1
            elif newest <= known:
                continue
            self._stuck[regime] = now.fields, newest
            row = ROWS[regime]
            names = {*(name for half in row.halves for name in half), "WXN", "MAIR"}
            names |= set(_CACHEABILITY) & now.fields.keys()

            def more(old: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
                return {
                    name: old.get(name, frozenset()) | stuck(row, name, now.fields[name])  # noqa: B023
                    for name in names  # noqa: B023
                }

            sticky = more(now.sticky)
            if sticky != now.sticky:
                self._set(regime, sticky=sticky)
            self.pending = tuple(
                replace(p, sticky=more(p.sticky))
                if p.tlbi.regime == regime and p.tlbi.number > known
                else p
                for p in self.pending
            )

    # What the effects share.

    def canonical(self, regime: str, va: int) -> tuple[int, bool]:
        """*va* without the tag that TCR_ELx.TBI ignores: bits 63:56 as bit 55; and whether the tag
        may count all the same (TBI=0). Then an address that is itself meant stays as it is."""
        row, fields = ROWS[regime], self.regimes[regime].fields
        upper = va >> 55 & 1 if len(row.halves) > 1 else 0
        plain = va | 0xFF << 56 if upper else va & ~(0xFF << 56)
        counts = any(fields[name] != (1,) for name in row.halves[upper] if name.startswith("TBI"))
        intents = self.intents[regime]
        if counts and (intents.at(va) is not None or intents.at(plain) is None):
            return va, False
        return plain, counts and plain != va

    def locate(self, step: Step, va: int) -> tuple[int, Intent | None]:
        """The physical address that the program means by *va*: itself with the MMU off."""
        regime = regime_at(step)
        if not self.regimes[regime].fields["M"][-1]:
            return va, None
        va, _ = self.canonical(regime, va)
        intent = self.intents[regime].at(va)
        pa = None if intent is None else intent.output(va)
        if pa is None:
            raise InvalidError(f"{step}: no intent says where {va:#x} should lead")
        return pa, intent

    def _set(self, regime: str, **changes: object) -> None:
        self.regimes[regime] = replace(self.regimes[regime], **changes)  # type: ignore[arg-type]
        self.changed = True

    def _finish(self, done: list[Pending]) -> None:
        if not done:
            return
        self._stuck.clear()
        for p in done:
            now = self.regimes[p.tlbi.regime]
            kept = {n: values & p.sticky.get(n, frozenset()) for n, values in now.sticky.items()}
            self._set(p.tlbi.regime, sticky={n: values for n, values in kept.items() if values})
        self.completed += [p.tlbi.number for p in done]
        self.pending = tuple(p for p in self.pending if p not in done)

    def _walk_cacheability(self, regime: str) -> Set[bool]:
        """Whether table walks of *regime* may be cacheable now, other PEs' included (R_XGXKR);
        neither where none walks."""
        now, row = self.regimes[regime], ROWS[regime]
        found = set(self.foreign[regime])
        walking = now.walking != OUT or regime == self.asked
        if walking and 1 in now.fields["M"]:
            found |= _walks(row, with_sticky(row, now.fields, now.sticky))
        return found

    def _foreign(self, regime: str) -> Set[bool]:
        row, found = ROWS[regime], set[bool]()
        for other in self.problem.environment:
            if other.regime == regime:
                found |= _walks(
                    row, initial_fields(row, {**self.problem.registers, **other.registers})
                )
        return found


def _walks(row: RegimeRow, fields: Mapping[str, tuple[int, ...]]) -> Set[bool]:
    """The cacheability of walks that *fields* allow: inner and outer, by TCR and SCTLR_ELx.C."""
    found = set()
    for n in range(len(row.halves)):
        if fields.get(f"EPD{n}") != (1,):
            found |= {bool(value) for name in (f"IRGN{n}", f"ORGN{n}") for value in fields[name]}
    return {walk and bool(cache) for walk in found for cache in fields["C"]}


def _cached(attr: int) -> set[bool]:
    """Whether accesses of memory type *attr* (a MAIR byte) are cacheable, inner and outer."""
    return {not is_device(attr) and half != 4 for half in (attr & 15, attr >> 4)}


def _value(step: Step, event: Msr) -> int:
    if event.value is None:
        raise InvalidError(f"{step}: writes an unknown value to {event.register}")
    return event.value


def _synchronizing(bit: str) -> Callable[[Machine, Step, program.Event], bool]:
    """With FEAT_ExS, SCTLR_ELx.EIS or EOS says whether the exception synchronizes."""

    def check(machine: Machine, step: Step, event: program.Event) -> bool:
        if not machine.options.exs:
            return True
        el = event.el if isinstance(event, ExceptionEntry) else step.el
        for regime, now in machine.regimes.items():
            if ROWS[regime].el == el:
                return now.fields[bit] == (1,)
        return bool(sctlr_fields(machine.problem.registers.get(f"SCTLR_EL{el}", 0))[bit])

    return check


def _register(stems: tuple[str, ...]) -> Callable[[Machine, Step, program.Event], bool]:
    def check(machine: Machine, step: Step, event: program.Event) -> bool:
        return isinstance(event, Msr) and event.register.rpartition("_")[0] in stems

    return check


def _to_table(machine: Machine, step: Step, event: program.Event) -> bool:
    if not isinstance(event, Store):
        return False
    pa, _ = machine.locate(step, event.va)
    return any(machine.tables.is_table(at) for at in range(pa & ~7, pa + event.size, 8))


_MODELLED = frozenset(
    name for row in ROWS.values() for name in (*row.ttbrs, row.tcr, row.sctlr, row.mair)
)


def _not_modelled(machine: Machine, step: Step, event: program.Event) -> bool:
    # HCR_EL2 has a check of its own (`Problem.check`).
    names = TRANSLATION_REGISTERS - _MODELLED - {"HCR_EL2"}
    return isinstance(event, Msr) and event.register in names


_WHEN: dict[str, Callable[[Machine, Step, program.Event], bool]] = {
    "always": lambda machine, step, event: True,
    "TTBRn_ELx": _register(("TTBR0", "TTBR1")),
    "TCR_ELx": _register(("TCR",)),
    "SCTLR_ELx": _register(("SCTLR",)),
    "MAIR_ELx": _register(("MAIR",)),
    "synchronizing": lambda m, s, e: _synchronizing(
        "EIS" if isinstance(e, ExceptionEntry) else "EOS"
    )(m, s, e),
    "within the trace": lambda m, s, e: isinstance(e, ExceptionEntry) and e.vector is not None,
    "to a table": _to_table,
    "not modelled": _not_modelled,
    "by address to PoC": lambda m, s, e: isinstance(e, Dc) and e.op in MAINTENANCE,
    "invalidates all": lambda m, s, e: isinstance(e, Dc) and e.op == "ISW",
    "not LD": lambda m, s, e: isinstance(e, Dsb | Dmb) and e.kind != "LD",
    "full": lambda m, s, e: isinstance(e, Dsb | Dmb) and not e.kind,
}
