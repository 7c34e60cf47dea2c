"""A PE with an MMU that caches, evicts and synchronises at random: one execution, one outcome.

Between any two events of a program the machine may walk for any VA, for the registers as they were
or are since the last context synchronization event, and keep leaves, partial walks and copies of
descriptors; it may translate later instructions ahead; it may forget anything. A TLBI removes the
entries that it is guaranteed to, at its DSB and not before, and none that it is not guaranteed to.
What an access then gets is compared with what the scenario intends.

The choices are guided: a run has one access in view and its own habits (`Habits`), so that a
witness needs few runs. No choice is excluded by that in all runs.
"""

from collections.abc import Iterable
from functools import partial
from random import Random

from concrete_memory import WalkerMemory
from concrete_plan import SYNCHRONISING, Habits, Key, Plan
from concrete_registers import REGIMES, Config, Controls, Half
from concrete_scenario import Misbehaviour
from concrete_tlb import Pending, Tlb
from concrete_walk import Copy, Leaf, Part, Path, conflict, memory_type, start_of, walk, whole_group
from ttbr.switch.program import (
    Abort,
    At,
    Dc,
    Dmb,
    Dsb,
    Event,
    Isb,
    Load,
    Msr,
    Step,
    Store,
    Tlbi,
)

__all__ = ["Plan", "kinds", "run"]

_REACH = {"NSH": 0, "ISH": 1, "OSH": 2, "SY": 3}

Outcome = Leaf | str


class _Stop(Exception):
    """The run has misbehaved."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what


class _Machine:
    def __init__(self, plan: Plan, random: Random, going_on: bool) -> None:
        scenario = plan.scenario
        self.going_on = going_on
        self.kinds: set[str] = set()
        self.plan = plan
        self.scenario = scenario
        self.random = random
        self.roll = random.random
        self.memory = WalkerMemory(scenario.words, scenario.tables, random)
        self.controls = {n: Controls(r, scenario.registers) for n, r in REGIMES.items()}
        self.tlbs = {
            n: Tlb(r.two, r.sctlr in scenario.unknown, scenario.bbm, scenario.ic_strict)
            for n, r in REGIMES.items()
        }
        self.others: dict[str, list[Config]] = {}
        for registers in scenario.others:
            for name, regime in REGIMES.items():
                if regime.tcr in registers:
                    config = Controls(regime, registers).choose(random, 0.0, on=True)
                    self.others.setdefault(name, []).append(config)
        self.habits = Habits(random, plan.points)
        self.regime = "EL2" if scenario.steps[0].el == 2 else "EL1&0"
        self.walking = {n: "in" if n == self.regime else "out" for n in REGIMES}
        self.pending: list[Pending] = []
        self.waiting = 0
        self.count = 0
        self.early: dict[Key, tuple[Outcome, Config]] = {}
        self.target = random.choice(plan.targets)
        self.at = 0
        self.last = 0
        self.el = scenario.steps[0].el
        self.pan: int | None = 0
        self.log: list[tuple[int, str, object, str]] = []
        self.junk = False
        self.doom = 0
        self.read_log: list[tuple[int, int]] = []
        self.speculative = False
        self.latent = ""

    # The program

    def run(self) -> Misbehaviour | None:
        step = -1
        try:
            self.hardware(2)
            for step, each in enumerate(self.scenario.steps):
                self.at = step
                self.step(step, each)
        except _Stop as stop:
            return Misbehaviour(stop.kind, step, stop.what, tuple(self.lines()))
        if self.latent:
            self.kinds.add("BBM")
            return Misbehaviour("BBM", step, self.latent, tuple(self.lines()))
        return None

    def lines(self) -> Iterable[str]:
        for at, what, entry, config in self.log:
            if not isinstance(entry, Leaf | Part) or 0 <= self.last - entry.first < entry.span:
                yield f"  #{at} {what}: {entry}" + (f" under {config}" if config else "")

    def fail(self, kind: str, what: str) -> None:
        """A misbehaviour: the end of the run, or one more kind of a run that goes on."""
        if not self.going_on:
            raise _Stop(kind, what)
        self.kinds.add(kind)

    def step(self, i: int, step: Step) -> None:
        self.el, self.pan = step.el, step.pan
        self.fetch(i, step)
        for k, event in enumerate(step.events):
            self.event(i, k, event, step)
        self.at = i + 1
        self.hardware(4 if i in self.habits.bursts else 0)

    def enter(self, el: int) -> None:
        """An exception or its return: walks for the EL1&0 that is left may still be under way."""
        regime = "EL2" if el == 2 else "EL1&0"
        if regime == self.regime:
            return
        self.walking[regime] = "in"
        self.walking[self.regime] = "inflight" if regime == "EL2" else "out"
        self.regime = regime

    def fetch(self, i: int, step: Step) -> None:
        outcome, config = self.translated((i, -1), step.pc, False)
        abort = next((e for e in step.events if isinstance(e, Abort)), None)
        if abort is None:
            self.judge(outcome, config, step.pc, "fetch")
        elif outcome != "FAULT":
            self.meant_to_fault(outcome, config, step, abort)

    def meant_to_fault(self, outcome: Outcome, config: Config, step: Step, abort: Abort) -> None:
        """A fetch that reaches something; with the MMU off an ISB there may be executed first."""
        if not isinstance(outcome, Leaf):
            self.judge(outcome, config, step.pc, "fetch")
        elif not outcome.flat:
            if outcome.x and not (config.wxn and outcome.w):
                self.fail("NO-FAULT", f"fetch of {step.pc:#x} by {outcome}")
        elif outcome.pa != self.scenario.intended(step.pc).pa + step.pc % 4096:
            self.fail("WRONG-PA", f"fetch of {step.pc:#x} with the MMU off")
        elif not (abort.isb and self.controls[self.regime].fields["M"][-1]):
            self.fail("NO-FAULT", f"fetch of {step.pc:#x} with the MMU off")

    def event(self, i: int, k: int, event: Event, step: Step) -> None:
        if isinstance(event, Load | Store):
            self.data(i, k, event)
        elif isinstance(event, Msr):
            for controls in self.controls.values():
                regime = controls.regime
                names = (*regime.ttbr[: 1 + regime.two], regime.tcr, regime.sctlr, regime.mair)
                if event.register in names and event.value is not None:
                    controls.write(event.register, event.value)
        elif isinstance(event, SYNCHRONISING):
            self.synchronise()
            if not isinstance(event, Isb):
                self.enter(event.el)
        elif isinstance(event, Dsb):
            self.dsb(event)
        elif isinstance(event, Tlbi):
            self.tlbi(event, step)
        elif isinstance(event, Dmb) and not event.kind:
            self.memory.order()
        elif isinstance(event, Dc):
            outcome, config = self.translate(event.operand, True)
            pa = self.judge(outcome, config, event.operand, "maintenance")
            self.memory.maintain(pa, event.op)
        elif isinstance(event, At):
            # Of a regime out of context too: it is no speculation (R_LFHQG).
            name = "EL2" if "E2" in event.op else "EL1&0"
            if self.controls[name].may_be_on():
                self.target, target = event.va & ~0xFFF, self.target
                self.speculate(name, 1.0)
                self.target = target
        else:
            return
        if k < len(step.events) - 1:
            self.hardware(0)

    def data(self, i: int, k: int, event: Load | Store) -> None:
        kind = "store" if isinstance(event, Store) else "load"
        outcome, config = self.translated((i, k), event.va, True)
        pa = self.judge(outcome, config, event.va, kind)
        if isinstance(event, Store) and event.size == 8 and event.value is not None:
            cacheable = 1
            if isinstance(outcome, Leaf):
                normal = memory_type(outcome.byte) not in ("NC", "DEV")
                cacheable = int(not outcome.flat and config.c and normal)
            self.memory.store(pa, event.value, cacheable)

    def synchronise(self) -> None:
        for controls in self.controls.values():
            controls.synchronise(self.scenario.ctrl_sticky)
        self.early.clear()
        if self.waiting:
            self.finish(self.waiting)
            self.waiting = 0

    def dsb(self, event: Dsb) -> None:
        if event.kind != "LD":
            self.memory.barrier()
        for name, state in self.walking.items():
            if state == "inflight" and not event.kind:
                self.walking[name] = "out"
        if event.kind or event.nxs:
            return
        reach = _REACH[event.domain]
        done = sum(p.bit for p in self.pending if _REACH[p.reach] <= reach)
        if self.scenario.tlbi_strict:
            self.waiting |= done
        elif done:
            self.finish(done)

    def finish(self, bits: int) -> None:
        some = sum(p.bit for p in self.pending if p.bit & bits and not p.everything)
        for name, tlb in self.tlbs.items():
            if some and self.roll() < 0.5:
                tlb.spare(some)
            tlb.complete(bits, self.controls[name])
        self.pending = [p for p in self.pending if not p.bit & bits]

    def tlbi(self, event: Tlbi, step: Step) -> None:
        name = event.op.regime(step.el, step.hcr)
        ds = bool(self.controls[name].fields["DS"][-1])
        pending = Pending(event, ds, 1 << self.count)
        self.count += 1
        self.pending.append(pending)
        self.tlbs[name].issue(pending, self.controls[name])

    # What the hardware does by itself

    def hardware(self, extra: int) -> None:
        """Walks nobody asked for, translation ahead of the program, eviction."""
        habits, roll = self.habits, self.roll
        n = extra
        if roll() < habits.walk:
            n += 1
        for name in REGIMES:
            if self.walking[name] == "out" or not self.controls[name].may_be_on():
                continue
            for _ in range(n):
                self.speculate(name, 0.85 if n > 1 else 0.6)
            if roll() < 0.08:
                self.evict(self.tlbs[name])
        ahead = self.plan.ahead[self.at]
        if ahead and roll() < habits.ahead:
            own = [k for k in self.plan.by_page.get(self.target, ()) if k in ahead]
            key = self.random.choice(own if own and roll() < 0.7 else ahead)
            if key not in self.early:
                self.early[key] = self.translate(self.plan.va[key], key[1] >= 0)
                outcome, config = self.early[key]
                self.log.append((self.at, f"translates ahead for #{key[0]}", outcome, config.text))

    def evict(self, tlb: Tlb) -> None:
        for entries in (tlb.leaves, tlb.parts):
            if entries and self.roll() < 0.5:
                del entries[self.random.randrange(len(entries))]
        if tlb.copies and self.roll() < 0.5:
            del tlb.copies[self.random.choice(list(tlb.copies))]

    def speculate(self, name: str, aim: float) -> None:
        va = self.target if self.roll() < aim else self.random.choice(self.plan.pages)
        if self.plan.contiguous and self.roll() < 0.3:
            va ^= self.random.getrandbits(self.random.randrange(1, 9)) << 12  # a group's members
        controls = self.controls[name]
        config = controls.choose(self.random, self.habits.old, on=True)
        others = self.others.get(name)
        if others and config.cnp and self.roll() < 0.5:
            other = self.random.choice(others)
            config = other if other.cnp else config
        if not config.m:
            return
        va, half = config.canonical(va)
        self.speculative = True
        self.fill(name, config, va, half)
        self.speculative = False

    # Translation

    def translated(self, key: Key, va: int, data: bool) -> tuple[Outcome, Config]:
        found = self.early.get(key)
        return self.translate(va, data) if found is None else found

    def translate(self, va: int, data: bool) -> tuple[Outcome, Config]:
        """Look *va* up now, with one choice of registers: a hit, or a walk."""
        name = self.regime
        config = self.controls[name].choose(self.random, self.habits.old)
        if not config.m:
            leaf = Leaf()
            leaf.flat, leaf.pa = True, config.canonical(va)[0]
            if leaf.pa >> 56 not in (0, 0xFF):
                return "FAULT", config  # the tag is beyond the physical address size
            leaf.byte = 0x00 if data else 0xFF
            return leaf, config
        tlb = self.tlbs[name]
        if tlb.unknown and self.roll() < 0.3:
            return "UNKNOWN-TLB", config
        va, half = config.canonical(va)
        if half.e0pd and self.el == 0:
            return "FAULT", config
        hits = tlb.matching(va, config.asid)
        if hits and self.roll() < self.habits.miss:
            tlb.leaves = [e for e in tlb.leaves if e not in hits]
            hits = []
        if hits:
            return self.hit(hits, va), config
        # FEAT_ETS2: the walk of a fault comes after stores in program order before (D8.2.6.1).
        ordered = data and self.scenario.ets2
        return self.fill(name, config, va, half, ordered), config

    def hit(self, hits: list[Leaf], va: int) -> Outcome:
        """A lookup that hits: one entry, or a conflict of two, which may use either."""
        if any(e.junk for e in hits):
            return "JUNK-WALK"
        if len(hits) > 1 and self.roll() < 0.8:
            for i, a in enumerate(hits):
                for b in hits[:i]:
                    kind = conflict(a, b, self.scenario.bbm)
                    if kind is not None:
                        self.log.append((self.at, "lookup hits", f"{a} and {b}", ""))
                        return kind
        return self.random.choice(hits)

    def fill(
        self, name: str, config: Config, va: int, half: Half, ordered: bool = False
    ) -> Outcome:
        """Walk, from the root or a cached partial walk, and cache what comes along."""
        if not config.in_range(va, half) or half.epd:
            return "FAULT"
        tlb = self.tlbs[name]
        self.junk, self.doom = False, self.controls[name].used
        self.read_log = []
        starts = tlb.starts(va, config.asid) if tlb.parts else []
        if starts and self.scenario.ic_strict and self.differ(starts):
            return "CONFLICT"
        hier, tg = 0, half.tg
        path: Path = ()
        if starts and self.roll() < self.habits.resume:
            start = self.random.choice(starts)
            if start.junk and not self.speculative:
                return "JUNK-WALK"
            self.junk = start.junk
            self.doom |= start.doom
            hier, path = start.hier, start.path
            tg = start.tg if start.tg == tg or self.roll() < 0.5 else tg
            at: tuple[int, int, int] | None = (start.level, start.table, tg - 3)
            if not self.speculative:
                self.log.append((self.at, f"goes on for {va:#x} from", start, config.text))
        else:
            at = start_of(config, half)
        if at is None:
            return "FAULT"
        parts: list[Part] = []
        read = partial(self.read, tlb=tlb, asid=config.asid, cacheable=half.cacheable)
        outcome = walk(config, half, va, at, tg, hier, read, parts, path)
        if ordered and outcome == "FAULT":
            parts.clear()
            newest = partial(self.memory.newest, cacheable=half.cacheable)
            outcome = walk(config, half, va, at, tg, hier, newest, parts, path)
        self.keep(name, tlb, config, outcome, parts)
        return outcome

    def read(self, location: int, tlb: Tlb, asid: int, cacheable: int) -> int | None:
        """A descriptor as a walk reads it: from a copy in the TLB, or from memory."""
        if location in tlb.copies and self.roll() < 0.5:
            own = [c for c in tlb.copies[location] if c.asid == asid]
            if own:
                copy = self.random.choice(own)
                self.doom |= copy.doom
                return copy.value
        value = self.memory.read(location, cacheable, self.random, self.habits.old)
        if value is None and self.speculative:
            self.junk = True
            return self.noise()
        if value is not None and self.habits.copy and not self.scenario.ntlbpa and value & 1:
            self.read_log.append((location, value))
        return value

    def keep(
        self, name: str, tlb: Tlb, config: Config, outcome: Outcome, parts: list[Part]
    ) -> None:
        """Cache some of what a walk of non-faulting descriptors has found (R_SQBCS, R_XCLRD)."""
        habits, roll, random = self.habits, self.roll, self.random
        for part in parts:
            if roll() < habits.part:
                part.junk = self.junk
                part.doom = tlb.inherit(self.doom, self.pending, None, part) if self.doom else 0
                if tlb.add_part(part, random):
                    self.log.append((self.at, "caches", part, config.text))
        if isinstance(outcome, Leaf) and roll() < habits.leaf:
            leaf = outcome
            leaf.junk = self.junk
            leaf.doom = tlb.inherit(self.doom, self.pending, leaf, None) if self.doom else 0
            if leaf.shape != leaf.span and roll() < 0.5:
                leaf = whole_group(leaf)
            if len(self.memory.history):
                self.compare(tlb, leaf)
            if tlb.add_leaf(leaf, random):
                self.log.append((self.at, "caches", leaf, config.text))
        for location, value in self.read_log:
            if roll() < habits.copy:
                copy = Copy(config.asid, location, value)
                copy.doom = sum(
                    p.bit for p in self.pending if self.doom & p.bit and p.copy(copy, tlb.two)
                )
                tlb.add_copy(copy)

    def compare(self, tlb: Tlb, leaf: Leaf) -> None:
        """Entries from two valid values of one descriptor: no break before the make (R_WHZWS)."""
        stored = self.memory.history
        for e in tlb.leaves:
            if not (e.first < leaf.first + leaf.span and leaf.first < e.first + e.span):
                continue
            if e.asid is not None and leaf.asid is not None and e.asid != leaf.asid:
                continue
            if conflict(e, leaf, self.scenario.bbm) != "CONFLICT":
                continue
            same_place = (e.pa - e.first, e.tg, e.level) == (
                leaf.pa - leaf.first,
                leaf.tg,
                leaf.level,
            )
            if same_place and e.shape != leaf.shape and e.byte == leaf.byte:
                continue  # the Contiguous bit is the rule of another list (R_QTRPM)
            values = dict(e.path)
            if any(at in stored and values.get(at, value) != value for at, value in leaf.path):
                self.latent = f"{e} and {leaf}"

    def differ(self, starts: Iterable[Part]) -> bool:
        """Whether two table descriptors are cached for one VA and level (I_HYQMB, strictly)."""
        tables: dict[int, int] = {}
        return any(tables.setdefault(p.level, p.table) != p.table for p in starts)

    def noise(self) -> int:
        """A word of memory that is not a table, read as a descriptor."""
        kind = self.random.randrange(4)
        if kind < 2:
            return 0
        page = self.random.randrange(1 << 20) << 12
        return page | 0x703 if kind == 2 else page | 3

    # Judgement

    def judge(self, outcome: Outcome, config: Config, va: int, access: str) -> int:
        """The PA that an access is meant to reach; fails if it gets another, or another way."""
        intended = self.scenario.intended(va)
        wanted = intended.pa + (va - intended.first) % (1 << 56)
        self.last = va
        if not isinstance(outcome, Leaf):
            if outcome != "FAULT" or not intended.fault or access == "fetch":
                self.fail(outcome, f"{access} of {va:#x} under {config.text}")
            return wanted
        if outcome.flat:
            on = self.controls[self.regime].may_be_on()
            if wanted != outcome.pa:
                self.fail("WRONG-PA", f"{access} of {va:#x} with the MMU off")
            elif on and access in ("load", "store") and intended.type != "DEV":
                self.fail("ATTR", f"{access} of {va:#x} with the MMU off")
            return wanted
        pa = outcome.pa + config.canonical(va)[0] - outcome.first
        if pa != wanted:
            self.fail("WRONG-PA", f"{access} of {va:#x} reaches {pa:#x} by {outcome}")
        byte = outcome.byte
        if self.roll() < 0.5:  # a cached index may be looked up in MAIR at each use
            byte = config.mair >> 8 * outcome.index & 0xFF
        if not config.c and access in ("load", "store") and memory_type(byte) != "DEV":
            byte = 0x44  # SCTLR_ELx.C=0
        if memory_type(byte) != intended.type and access != "maintenance":
            self.fail("ATTR", f"{access} of {va:#x} as {memory_type(byte)} by {outcome}")
        wxn = config.wxn if self.roll() < 0.5 else outcome.wxn
        if access == "fetch" and (not outcome.x or (wxn and outcome.w)):
            self.fail("PERM", f"fetch of {va:#x} by {outcome}")
        if access == "fetch" and memory_type(byte) == intended.type == "DEV":
            self.fail("PERM", f"fetch of {va:#x} from Device memory by {outcome}")  # B2.10
        if access == "store" and not outcome.w:
            self.fail("PERM", f"store to {va:#x} by {outcome}")
        pan = self.roll() < 0.5 if self.pan is None else self.pan
        if pan and outcome.user and self.el and access in ("load", "store"):
            self.fail("PERM", f"{access} of {va:#x} under PAN by {outcome}")
        return wanted


def run(plan: Plan, seed: int) -> Misbehaviour | None:
    """One random execution of the plan's scenario; the first misbehaviour, or None."""
    return _Machine(plan, Random(seed), False).run()


def kinds(plan: Plan, seed: int) -> set[str]:
    """One random execution that goes on as intended after a misbehaviour; all their kinds."""
    machine = _Machine(plan, Random(seed), True)
    machine.run()
    return machine.kinds
