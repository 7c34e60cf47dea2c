"""A trace run through the machine: its points, and every access with the points it may use."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ttbr.arch.attributes import PR, PW, PX, UR, UW, UX
from ttbr.arch.features import features_of
from ttbr.switch import program
from ttbr.switch.configs import ROWS, Config, Configurations
from ttbr.switch.descriptors import TableMemory
from ttbr.switch.machine import Machine
from ttbr.switch.problem import A_CTRL, IntentMap, Problem, regime_at
from ttbr.switch.program import Dc, Eret, Load, Step, Store
from ttbr.switch.state import Point, with_sticky

__all__ = ["Access", "Timeline", "timeline"]

# DC by set and way has no address to translate.
_BY_ADDRESS = ("CVAC", "CIVAC", "IVAC", "CVAP", "CVADP", "CVAU")


@dataclass(frozen=True, slots=True)
class Access:
    """A fetch or data access of a step, translated at one of the points `since` to `now`.

    `typed`: whether the memory type counts. For DC by address it does not (D7.5): it acts on all
    copies of the physical address.
    """

    step: int
    regime: str
    va: int
    need: int
    since: int
    now: int
    typed: bool = True

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
    _configs: dict[tuple[int, str, int, int], tuple[Config, ...]] = field(default_factory=dict)

    def configs(
        self, point: Point, regime: str, upper: int, number: int = -1
    ) -> tuple[Config, ...]:
        """What the walks of one half may use at *point*; *number* picks a pending TLBI's world."""
        key = (point.number, regime, upper, number)
        found = self._configs.get(key)
        if found is None:
            now = point.registers[regime]
            sticky = now.sticky
            if number >= 0:
                pending = (p.sticky for p in point.pending if p.tlbi.number == number)
                sticky = next(pending, sticky)
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
    else:
        return []
    last = va + size - 1
    return [(va, need)] if va >> 12 == last >> 12 else [(va, need), (last & ~0xFFF, need)]


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


def _run_step(line: Timeline, machine: Machine, number: int, step: Step) -> None:
    regime = regime_at(step)
    now = len(line.points) - 1
    line.accesses.append(
        Access(number, regime, step.pc, UX if step.el == 0 else PX, line.since, now)
    )
    for event in step.events:
        now = len(line.points) - 1
        for va, need in _data_accesses(step, event):
            here = machine.canonical(regime, va)
            typed = not isinstance(event, Dc)
            line.accesses.append(Access(number, regime, here, need, line.since, now, typed))
        machine.run(step, event)
        if machine.changed:
            line.points.append(machine.snapshot(number, step.text))
        if machine.synchronized:
            line.since = len(line.points) - 1
