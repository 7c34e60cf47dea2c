"""Run a job on Unicorn with our own walk in place of its MMU, and a TLB that may be hostile.

Every instruction is executed by Unicorn, every address translated by `ttbr.walk` under the
registers that it holds at that moment. So 52-bit addresses run, which Unicorn's own CPU does not
have. And what a proof says may be in a TLB can be put there: a `Held` translation is used in place
of a walk while it lasts. `held_of` takes it from a counterexample, which is thereby seen to fail.

Unicorn's TLB is emptied before each instruction, so that nothing but the walk and what is held
counts. (UC_TLB_VIRTUAL asks the hook for one page at a time, for a fetch once more when refused.)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ttbr.arch.attributes import PR, PW, PX
from ttbr.arch.bits import ones
from ttbr.arch.faults import Fault
from ttbr.arch.features import Features
from ttbr.arch.regime import EL1, EL2, EL20, Regime, regime_of
from ttbr.emulate.run import PAGE, Death, Job, Outcome
from ttbr.emulate.unicorn_cpu import NOWHERE, Stop, UnicornCpu
from ttbr.errors import InvalidError, TtbrError, UnsupportedError
from ttbr.memory.segments import SparseMemory
from ttbr.switch.configs import ROWS
from ttbr.switch.judge import ATTR, BBM, KINDS, Finding, Flat, Hit
from ttbr.switch.saturate import Stop as WalkStop
from ttbr.walk import EXECUTE, READ, WRITE, Access, translate

__all__ = ["Held", "held_of", "replay"]

LAST = 1 << 62
SMALLEST = 1 << 10  # the pages of Unicorn's TLB
ALL = PR | PW | PX


@dataclass(frozen=True, slots=True)
class Held:
    """*size* bytes from *va* translate to *pa*, whatever the tables say; with *pa* None they fault.

    With `registers` a walk is made first that uses those values in place of the newest (they are
    not synchronized): what it refuses is refused. An entry lasts from instruction `first` to
    instruction `last` of the run, counted from 0 and both included. A run that it leads elsewhere
    than to `intended` has died. `why` is for the report.
    """

    va: int
    size: int
    pa: int | None
    permissions: int = ALL
    first: int = 0
    last: int = LAST
    intended: int | None = None
    registers: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


def replay(job: Job, held: Iterable[Held] = (), features: Features | None = None) -> Outcome:
    """Run *job* under our walk, with the translations *held* in the TLB.

    *features* are those of the CPU; unless given, all that the registers ask for. Raises what
    `regime_of` raises for registers that cannot be.
    """
    with _Cpu(job, tuple(held), features) as cpu:
        stop = cpu.run(cold=True)
        death = None if stop is None else cpu.death(stop)
        name = "Unicorn with our walk" + (" and a hostile TLB" if cpu.held else "")
        return Outcome(job, name, tuple(cpu.executed), death, cpu.registers())


class _Cpu(UnicornCpu):
    """Translates each page that Unicorn asks for, and remembers why one was refused."""

    def __init__(self, job: Job, held: tuple[Held, ...], features: Features | None) -> None:
        super().__init__(job)
        u = self.unicorn
        self.held, self.features = held, features
        self.memory = SparseMemory(self.blocks)
        self.refused: tuple[str, int, Fault | None, str] | None = None
        self.fault: Fault | None = None
        self.why = ""
        self.error: TtbrError | None = None
        self._fetched: dict[int, int] = {}
        self._regimes: dict[tuple[object, ...], Regime] = {}
        self._kinds = {
            u.UC_MEM_READ: ("load", READ, PR),
            u.UC_MEM_WRITE: ("store", WRITE, PW),
            u.UC_MEM_FETCH: ("fetch", EXECUTE, PX),
        }
        self.uc.ctl_set_tlb_mode(u.UC_TLB_VIRTUAL)
        self.uc.hook_add(u.UC_HOOK_TLB_FILL, self._on_fill)

    def _on_fill(self, uc: Any, va: int, kind: int, entry: Any, data: object) -> bool:
        name, access, need = self._kinds[kind]
        va &= ones(64)
        if va == NOWHERE & -SMALLEST:
            entry.paddr, entry.perms = next(iter(self.blocks)), self.unicorn.UC_PROT_ALL
            return True
        self.refused = None
        try:
            pa, permissions = self._translate(va, name, access, need)
        except TtbrError as error:
            self.error = error
            return False
        if pa is None:
            return False
        if name == "fetch":
            self._fetched[va] = pa
        u = self.unicorn
        entry.paddr = pa
        entry.perms = (
            (u.UC_PROT_READ if permissions & PR else 0)
            | (u.UC_PROT_WRITE if permissions & PW else 0)
            | (u.UC_PROT_EXEC if permissions & PX else 0)
        )
        return True

    def _translate(self, va: int, name: str, access: Access, need: int) -> tuple[int | None, int]:
        """(PA, permissions) of the page at *va*; None as PA when *access* is refused."""
        number = self.steps - (name != "fetch")
        for entry in self.held:
            if entry.va <= va < entry.va + entry.size and entry.first <= number <= entry.last:
                return self._held(entry, va, name, access, need)
        return self._walk(va, name, access, need, {})

    def _held(
        self, entry: Held, va: int, name: str, access: Access, need: int
    ) -> tuple[int | None, int]:
        pa, permissions = None, entry.permissions
        why = entry.why or "a held TLB entry"
        if entry.registers:
            try:
                pa, permissions = self._walk(va, name, access, need, entry.registers)
            except InvalidError as error:
                why = str(error)
            else:
                if pa is None:
                    return None, 0
        elif entry.pa is not None:
            pa = entry.pa + va - entry.va
        meant = None if entry.intended is None else entry.intended + va - entry.va
        if entry.pa is None or pa is None or not permissions & need:
            self.refused = name, va, None, why
        elif meant not in (None, pa):
            self.refused = name, va, None, f"PA {pa:#x} in place of {meant:#x}: {why}"
        else:
            return pa, permissions
        return None, 0

    def _walk(
        self, va: int, name: str, access: Access, need: int, other: Mapping[str, int]
    ) -> tuple[int | None, int]:
        answer = translate(self.memory, self._regime(other), va, access)
        if isinstance(answer, Fault):
            self.refused = name, va, answer, answer.reason
            return None, 0
        # What is not asked for now is asked for again.
        return answer.pa, need

    def _regime(self, other: Mapping[str, int]) -> Regime:
        state = self.state()
        name = EL1 if state.el < 2 else EL2 if state.ttbr1 is None else EL20
        registers = {n: v for n, v in self.registers().items() if n != "PC"} | dict(other)
        key = (name, *registers.values())
        if key not in self._regimes:
            self._regimes[key] = regime_of(registers, name, self.features)
        return self._regimes[key]

    def fetched_from(self, pc: int) -> int | None:
        """The physical address that the last fill for a fetch gave *pc*."""
        page = self._fetched.get(pc & -SMALLEST)
        return None if page is None else page + pc % SMALLEST

    def stop(self, error: int) -> Stop:
        """A refused page ends the run as an error, without an exception number."""
        if self.refused is None:
            return super().stop(error)
        access, page, self.fault, self.why = self.refused
        self.refused = None
        far = self.pc if access == "fetch" else self.data_address(self.pc) or page
        return Stop(self.pc, access, far)

    def death(self, stop: Stop) -> Death:
        """Why the run stopped."""
        if self.error is not None:
            raise self.error
        if stop.hole is not None:
            return Death(stop.pc, f"no memory at PA {stop.hole:#x}", stop.access, stop.far)
        if stop.what:
            return Death(stop.pc, stop.what)
        if self.fault is None:
            return Death(stop.pc, self.why, stop.access, stop.far)
        why = f"{self.fault} ({self.why})"
        return Death(stop.pc, why, stop.access, stop.far, self.fault, self.fault.status)


def held_of(finding: Finding) -> tuple[Held, ...]:
    """What must be in the TLB, or used by a walk, for *finding* of a proof to happen.

    `UnsupportedError` for kinds that show in no single access: a memory type, and the clashes that
    a store prepares (BBM).
    """
    access, outcome = finding.access, finding.outcome
    if finding.kind in (ATTR, BBM):
        raise UnsupportedError(f"{finding.kind}: no access of the run can show it")
    page = access.va & -PAGE
    intended = None if finding.intent is None else finding.intent.output(page)
    why = KINDS[finding.kind]
    base = Held(page, PAGE, None, ALL, access.step, access.step, intended, why=why)
    if isinstance(outcome, Flat):
        return (replace(base, pa=page, why="the MMU is still off"),)
    if isinstance(outcome, Hit):
        return (replace(base, pa=outcome.output, permissions=outcome.permissions),)
    if isinstance(outcome, WalkStop):
        why = f"{why}: level {outcome.level}, {outcome.reason}"
        return (replace(base, registers=_mixture(finding, outcome), why=why),)
    return (base,)


def _mixture(finding: Finding, outcome: WalkStop) -> dict[str, int]:
    """The register values that the walk used."""
    row, values = ROWS[finding.access.regime], outcome.config.values
    mixed = {name: values[name] for name in row.ttbrs if name in values}
    return mixed | {row.tcr: values["TCR"], row.mair: values["MAIR"]}
