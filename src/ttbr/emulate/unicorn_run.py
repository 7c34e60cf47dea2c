"""Run a job on Unicorn, an emulated CPU inside this process, with its own MMU.

A warm run is an ordinary one: a TLB entry may outlive its table. In a cold run the TLB is emptied
before each instruction, so nothing but the tables counts. `run_both` does both; what differs
between them relies on stale entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ttbr.arch.faults import Fault, fault_of_par
from ttbr.arch.regime import EL1, EL2, EL20, regime_of
from ttbr.emulate.quirk_effects import UNICORN_PAMAX
from ttbr.emulate.run import Death, Job, Outcome, State
from ttbr.emulate.unicorn_at import HARNESS, HARNESS_SIZE, UnicornAt
from ttbr.emulate.unicorn_cpu import Stop, UnicornCpu, refuse_wide
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.memory.segments import SparseMemory
from ttbr.walk import EXECUTE, READ, WRITE, Access, translate

__all__ = ["Both", "run", "run_both"]

WARM, COLD = "Unicorn", "Unicorn, cold TLB"


class _Cpu(UnicornCpu):
    def _refuse(self, state: State) -> None:
        refuse_wide(state, "Unicorn")


@dataclass(frozen=True, slots=True)
class Both:
    """A job's warm and cold runs."""

    warm: Outcome
    cold: Outcome

    @property
    def stale(self) -> str | None:
        """What tells that the job relies on stale TLB entries; None when both runs are alike."""
        for a, b in zip(self.warm.executed, self.cold.executed, strict=False):
            if (a.pc, a.pa) != (b.pc, b.pa):
                return (
                    f"{a.pc:#x}: {a.text}: relies on a stale TLB entry: {b.pc:#x} with a cold TLB"
                )
        if self.warm.reached and self.cold.death is not None:
            return f"relies on stale TLB entries: with a cold TLB it {self.cold.death}"
        if self.cold.reached and self.warm.death is not None:
            return f"a stale TLB entry breaks it: {self.warm.death}"
        return None


def run(job: Job, cold: bool = False) -> Outcome:
    """Run *job*, with *cold* on an empty TLB at every instruction.

    `InvalidError` for memory that cannot be, `UnsupportedError` for what Unicorn's CPU lacks
    (FEAT_LPA2, FEAT_LVA, FEAT_TTST, physical addresses of more than 44 bits, newer TLBI
    instructions and registers).
    """
    for address, data in job.memory.items():
        if address + len(data) > 1 << UNICORN_PAMAX:
            raise UnsupportedError(
                f"Unicorn: memory at {address:#x}: its physical addresses have {UNICORN_PAMAX} bits"
            )
    with _Cpu(job) as cpu:
        stop = cpu.run(cold)
        refuse_wide(cpu.state(), "Unicorn")  # what it died of may be its own lack
        registers = cpu.registers()
        death = None if stop is None else _death(cpu, stop, registers)
        return Outcome(job, COLD if cold else WARM, tuple(cpu.executed), death, registers)


def run_both(job: Job) -> Both:
    """The warm and the cold run of *job*."""
    return Both(run(job), run(job, cold=True))


def _death(cpu: UnicornCpu, stop: Stop, registers: Mapping[str, int]) -> Death:
    if stop.what or stop.far is None:
        return Death(stop.pc, stop.what or f"abort of a {stop.access}", stop.access)
    if stop.hole is not None:
        return Death(stop.pc, f"no memory at PA {stop.hole:#x}", stop.access, stop.far)
    fault = _fault(cpu, stop, registers)
    if fault is None:
        why = "an abort that the tables do not explain: a stale TLB entry"
        return Death(stop.pc, why, stop.access, stop.far)
    return Death(stop.pc, str(fault), stop.access, stop.far, fault, fault.status)


def _fault(cpu: UnicornCpu, stop: Stop, registers: Mapping[str, int]) -> Fault | None:
    """The fault of the address: by AT on the same registers and memory.

    No AT tests the permission to execute, so where it finds a translation our walk does; and of
    EL2&0, which AT does not know here (quirk U7).
    """
    assert stop.far is not None
    state = cpu.state()
    name = EL1 if state.el < 2 else EL2 if state.ttbr1 is None else EL20
    if name == EL20:
        access = {"fetch": EXECUTE, "load": READ, "store": WRITE}[stop.access]
        return _walked(cpu, registers, name, stop.far, access)
    operation = f"S1E{max(state.el, 1)}{'W' if stop.access == 'store' else 'R'}"
    with UnicornAt(harness=_harness(cpu)) as at:
        for address, block in cpu.blocks.items():
            at.map(address, block)
        at.load(registers)
        par = at.at(operation, [stop.far])[0]
    if par & 1:
        return fault_of_par(par, stop.far)
    return _walked(cpu, registers, name, stop.far, EXECUTE)


def _walked(
    cpu: UnicornCpu, registers: Mapping[str, int], name: str, va: int, access: Access
) -> Fault | None:
    """The fault that our walk finds."""
    answer = translate(SparseMemory(cpu.blocks), regime_of(registers, name), va, access)
    return answer if isinstance(answer, Fault) else None


def _harness(cpu: UnicornCpu) -> int:
    """A place that the job's memory leaves free, in the 44 bits of Unicorn's CPU."""
    for base in range(HARNESS, 0, -(1 << 32)):
        taken = cpu.blocks.items()
        if all(base + HARNESS_SIZE <= a or a + len(b) <= base for a, b in taken):
            return base
    raise InvalidError("the job's memory leaves no place for the harness")
