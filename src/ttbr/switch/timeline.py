"""A trace run through the machine: its points, and every access with the points it may use."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ttbr.arch.attributes import PR, PW, PX, UR, UW, UX
from ttbr.arch.features import features_of
from ttbr.arch.regime import EL1, EL20
from ttbr.errors import InvalidError
from ttbr.switch import program
from ttbr.switch.configs import ROWS, Config, Configurations
from ttbr.switch.descriptors import TableMemory
from ttbr.switch.machine import Machine
from ttbr.switch.problem import A_CTRL, IntentMap, Problem, regime_at
from ttbr.switch.program import Abort, Dc, Eret, Ic, Load, Msr, Step, Store
from ttbr.switch.state import Point, with_sticky
from ttbr.switch.writes import MAINTENANCE

__all__ = ["Access", "Timeline", "timeline"]

# DC by set and way has no address to translate.
_BY_ADDRESS = (*MAINTENANCE, "CVAU")
_EPAN = 57


@dataclass(frozen=True, slots=True)
class Access:
    """A fetch or data access of a step, translated at one of the points `since` to `now`.

    `typed`: whether the memory type counts. For DC by address it does not (D7.5): it acts on all
    copies of the physical address. `barred` are the permissions at EL0 that bar the access while
    PSTATE.PAN may be 1. `tagged` is the address as used where its tag counts for TBI=0 (else 0).
    `normal`: it faults on Device memory; `unaligned`: and where SCTLR_ELx.A is 1. `landing`: the
    fetch faults in a guarded page (FEAT_BTI). `abort`: the fetch is meant to fault.
    """

    step: int
    regime: str
    va: int
    need: int
    since: int
    now: int
    typed: bool = True
    barred: int = 0
    tagged: int = 0
    normal: bool = False
    unaligned: bool = False
    landing: bool = False
    abort: Abort | None = None

    @property
    def fetch(self) -> bool:
        return bool(self.need & (PX | UX))


@dataclass(slots=True)
class Timeline:
    """All points and accesses of a trace, the configs of every point, and what was stored to."""

    problem: Problem
    tables: TableMemory
    configurations: Configurations
    intents: Mapping[str, IntentMap]
    points: list[Point]
    accesses: list[Access]
    since: int = 0
    stored: frozenset[int] = frozenset()
    epan: bool = False
    _configs: dict[tuple[str, int, int, int], tuple[Config, ...]] = field(default_factory=dict)

    def configs(
        self, point: Point, regime: str, upper: int, number: int = -1
    ) -> tuple[Config, ...]:
        """What the walks of one half may use at *point*; *number* picks a pending TLBI's world."""
        now = point.registers[regime]
        sticky = now.sticky
        if number >= 0 and A_CTRL not in self.problem.options.assumptions:
            pending = (p.sticky for p in point.pending if p.tlbi.number == number)
            sticky = next(pending, sticky)
        key = (regime, upper, id(now), id(sticky))  # the points keep both
        found = self._configs.get(key)
        if found is None:
            row = ROWS[regime]
            fields = with_sticky(row, now.fields, sticky) if sticky else now.fields
            found = self._configs[key] = self.configurations.all(row, now.pairs, fields, upper)
        return found


def _data_accesses(step: Step, event: program.Event) -> list[tuple[int, int]]:
    """(address, permission bit) of what *event* accesses."""
    read, write = (UR, UW) if step.el == 0 else (PR, PW)
    if isinstance(event, Load):
        va, size, need = event.va, event.size, read
    elif isinstance(event, Store):
        va, size, need = event.va, event.size, write
    elif isinstance(event, Dc) and event.op in _BY_ADDRESS:
        va, size, need = event.operand, 1, write if event.op == "IVAC" else read
    elif isinstance(event, Ic) and event.va is not None:
        va, size, need = event.va, 1, read
    else:
        return []
    last = va + size - 1
    return [(va, need)] if va >> 12 == last >> 12 else [(va, need), (last & ~0xFFF, need)]


def _epan(problem: Problem) -> bool:
    """Whether SCTLR_ELx.EPAN is ever 1: it is permitted to be cached in a TLB (FEAT_PAN3)."""
    names = ("SCTLR_EL1", "SCTLR_EL2")
    values = [problem.registers.get(name, 0) for name in names]
    events = [e for step in problem.steps for e in step.events if isinstance(e, Msr)]
    values += [e.value or 0 for e in events if e.register in names]
    return any(value >> _EPAN & 1 for value in values)


def timeline(problem: Problem) -> Timeline:
    """Run the machine over the trace. Raises `InvalidError` for what cannot be judged."""
    problem.check()
    tables = TableMemory(problem.memory, problem.tables)
    regimes = {regime_at(step) for step in problem.steps}
    intents = {regime: problem.intents(regime) for regime in regimes}
    features = problem.options.features or features_of(problem.registers)
    configurations = Configurations(problem.registers, features)
    machine = Machine(problem, tables, intents)
    line = Timeline(problem, tables, configurations, intents, [], [])
    line.epan = features.pan3 and _epan(problem)
    if A_CTRL not in problem.options.assumptions:
        machine.stick()
    line.points.append(machine.snapshot(-1, "start"))
    for number, step in enumerate(problem.steps):
        _run_step(line, machine, number, step)
    if problem.target is not None:
        last = problem.steps[-1]
        el = next((e.el for e in last.events if isinstance(e, Eret)), last.el)
        regime = regime_at(replace(last, el=el))
        need = UX if el == 0 else PX
        if regime in machine.regimes:
            line.accesses.append(
                Access(
                    len(problem.steps),
                    regime,
                    problem.target,
                    need,
                    line.since,
                    len(line.points) - 1,
                )
            )
    line.stored = machine.writes.locations
    return line


def _refuse_unmapped(line: Timeline, number: int, regime: str, va: int) -> None:
    """An access that is meant to fault ends the run: what is behind it would not be executed."""
    intent, steps = line.intents[regime].at(va), line.problem.steps
    if intent is not None and intent.pa is None and number < len(steps) - 1:
        raise InvalidError(
            f"{steps[number]}: {va:#x} is meant to be unmapped: end the program here"
        )


def _barred(line: Timeline, regime: str, step: Step) -> int:
    """What PSTATE.PAN bars privileged loads and stores from: what EL0 may read or write, with EPAN
    also what it may only execute. Cache maintenance is not barred (D8.4.3)."""
    if step.pan == 0 or step.el == 0 or regime not in (EL1, EL20):
        return 0
    return UR | UW | (UX if line.epan else 0)


def _run_step(line: Timeline, machine: Machine, number: int, step: Step) -> None:
    regime = regime_at(step)
    now = len(line.points) - 1
    fetch = UX if step.el == 0 else PX
    abort = next((e for e in step.events if isinstance(e, Abort)), None)
    line.accesses.append(
        Access(number, regime, step.pc, fetch, line.since, now, landing=step.landing, abort=abort)
    )
    for event in step.events:
        now = len(line.points) - 1
        typed = isinstance(event, Load | Store)
        unaligned = isinstance(event, Load | Store) and event.unaligned
        normal = unaligned or (isinstance(event, Store) and event.zva)
        barred = _barred(line, regime, step) if typed else 0
        for va, need in _data_accesses(step, event):
            here, counts = machine.canonical(regime, va)
            _refuse_unmapped(line, number, regime, here)
            tagged = va if counts else 0
            access = Access(number, regime, here, need, line.since, now, typed, barred, tagged)
            line.accesses.append(replace(access, normal=normal, unaligned=unaligned))
        machine.run(step, event)
        if machine.changed:
            line.points.append(machine.snapshot(number, step.text))
        if machine.synchronized:
            line.since = len(line.points) - 1
