"""Verify a plan: build, prove, run and probe it, and say whether all of them agree.

The prover answers for every CPU, an emulator for one. So a run that dies where the proof says safe
is a contradiction; a run that arrives where the proof says unsafe is not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from ttbr.boards.board import Board
from ttbr.build import Arena, Tables
from ttbr.emulate.differential import Report
from ttbr.emulate.planned import planned_job
from ttbr.emulate.probe import probe_tables
from ttbr.emulate.run import Outcome
from ttbr.errors import InvalidError, TtbrError, UnsupportedError
from ttbr.linux.config import KernelConfig
from ttbr.linux.mapped import wrongly_mapped
from ttbr.linux.realise import realise, table_base
from ttbr.linux.strategies import Plan, plan
from ttbr.switch.planned import planned_problem, vhe_problem
from ttbr.switch.prove import Proof, prove_all

__all__ = ["EMULATORS", "Ran", "Verified", "verify"]

EMULATORS = ("unicorn", "qemu")
# Where QemuAt has RAM for tables.
PROBE_BASE = 0x4100_0000


@dataclass(frozen=True, slots=True)
class Ran:
    """One emulator: the run, what relied on stale TLB entries, and the probes of the tables.

    `outcome` is None where this emulator cannot run it; `why_not` says why.
    """

    emulator: str
    outcome: Outcome | None
    stale: str | None = None
    probed: tuple[Report, ...] = ()
    why_not: str = ""

    @property
    def differences(self) -> int:
        return sum(len(report.differences) for report in self.probed)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was planned, proved and run. `contradictions` is empty when all agree.

    `wrong` is what the tables map otherwise than planned (`ttbr.linux.mapped`).
    """

    plan: Plan
    proof: Proof
    ran: tuple[Ran, ...]
    wrong: tuple[str, ...] = ()

    @property
    def contradictions(self) -> tuple[str, ...]:
        found = []
        if self.wrong:
            found.append("the tables do not map what was planned")
        for ran in self.ran:
            died = ran.outcome is not None and not ran.outcome.reached
            if self.proof.result.safe and died:
                found.append(f"proved {self.proof.verdict}, but on {ran.emulator} it died")
            if ran.differences:
                found.append(f"{ran.differences} probes on {ran.emulator} differ from the walk")
        return tuple(found)


def _tables(chosen: Plan, base: int) -> tuple[Tables, ...]:
    return realise(chosen, Arena.at(base, chosen.config.granule)).tables


def _on_unicorn(strategy: str, config: KernelConfig, board: Board, chosen: Plan) -> Ran:
    from ttbr.emulate.replay import replay
    from ttbr.emulate.sides import UnicornSide
    from ttbr.emulate.unicorn_at import UnicornAt
    from ttbr.emulate.unicorn_run import run_both

    job = planned_job(strategy, config, board)
    try:
        both = run_both(job)
    except UnsupportedError:  # FEAT_LPA2 and 52 bits: its instructions, our walk, no AT
        return Ran("unicorn", replay(job))
    with UnicornAt() as cpu:
        side = UnicornSide(cpu)
        probed = tuple(probe_tables(side, t) for t in _tables(chosen, table_base(chosen)))
    return Ran("unicorn", both.warm, both.stale, probed)


def _on_qemu(strategy: str, config: KernelConfig, board: Board, chosen: Plan) -> Ran:
    from ttbr.emulate import qemu_run
    from ttbr.emulate.qemu_at import QemuAt
    from ttbr.emulate.sides import QemuSide

    with QemuAt() as cpu:
        side = QemuSide(cpu)
        probed = tuple(probe_tables(side, t) for t in _tables(chosen, PROBE_BASE))
    job = planned_job(strategy, config, board)
    lowest = min(job.memory)
    if lowest < qemu_run.VIRT.ram:
        why = f"its machine has no RAM below {qemu_run.VIRT.ram:#x}"
        return Ran("qemu", None, None, probed, why)
    machine = qemu_run.SBSA_REF if lowest >= qemu_run.SBSA_REF.ram else qemu_run.VIRT
    outcome = qemu_run.run(job, machine)
    return Ran("qemu", outcome, outcome.stale, probed)


def verify(
    strategy: str,
    config: KernelConfig,
    board: Board,
    emulators: Iterable[str] | None = None,
) -> Verified:
    """Prove *strategy* for *config* on *board*, and run and probe it on each of *emulators*.

    By default on all of `EMULATORS`; one that is not installed is then left out and says so.
    `InvalidError` where the strategy has no tables for this board; ``vhe`` runs on QEMU only and
    has no tables of its own to be probed.
    """
    chosen = plan(strategy, config, board)
    if strategy == "vhe":
        from ttbr.emulate import qemu_run

        proof = prove_all(vhe_problem(config, board))
        outcome = qemu_run.run(planned_job(strategy, config, board))
        return Verified(chosen, proof, (Ran("qemu", outcome, outcome.stale),))
    if not chosen.roots:
        raise InvalidError(f"{strategy}: {chosen.why_not}")
    proof = prove_all(planned_problem(chosen))
    runners = {"unicorn": _on_unicorn, "qemu": _on_qemu}
    ran = []
    for name in dict.fromkeys(EMULATORS if emulators is None else emulators):
        why = _missing(name) if emulators is None else ""
        given = (strategy, config, board, chosen)
        ran.append(Ran(name, None, why_not=why) if why else runners[name](*given))
    arena = Arena.at(table_base(chosen), chosen.config.granule)
    return Verified(chosen, proof, tuple(ran), wrongly_mapped(realise(chosen, arena)))


def _missing(emulator: str) -> str:
    """Why *emulator* is not there; empty if it is."""
    from ttbr.emulate.qemu_at import qemu_version

    if emulator == "unicorn":
        return "" if find_spec("unicorn") else "not installed: pip install 'ttbr[emulate]'"
    try:
        qemu_version()
    except TtbrError as error:
        return str(error)
    return ""
