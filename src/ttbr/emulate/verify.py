"""Verify a plan: build, prove, run and probe it, and say whether all of them agree.

The prover answers for every CPU, an emulator for one. So a run that dies where the proof says safe
is a contradiction; a run that arrives where the proof says unsafe is not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from ttbr.boards.board import Board
from ttbr.build import Arena, Tables
from ttbr.emulate.differential import Report
from ttbr.emulate.planned import planned_job, sequence_job
from ttbr.emulate.probe import probe_tables
from ttbr.emulate.run import Job, Outcome
from ttbr.errors import TtbrError, UnsupportedError
from ttbr.linux.config import KernelConfig
from ttbr.linux.el1 import el1_tables
from ttbr.linux.idmap import id_map
from ttbr.linux.mapped import wrongly_mapped
from ttbr.linux.realise import realise, table_base
from ttbr.linux.strategies import Plan, plan
from ttbr.switch.planned import el1_problem, planned_problem, vhe_problem
from ttbr.switch.prove import Proof, prove_all

__all__ = ["EMULATORS", "Ran", "Verified", "verify"]

EMULATORS = ("unicorn", "qemu")
# Where QemuAt has RAM for tables.
PROBE_BASE = 0x4100_0000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ran:
    """One emulator: the run, what relied on stale TLB entries, and the probes of the tables.

    `outcome` is None where this emulator cannot run it; `why_not` says why, and `failed` that it
    is there but broke down. `not_probed` says why no table was probed, where none was.
    """

    emulator: str
    outcome: Outcome | None
    stale: str | None = None
    probed: tuple[Report, ...] = ()
    why_not: str = ""
    not_probed: str = ""
    failed: bool = False

    @property
    def differences(self) -> int:
        return sum(len(report.differences) for report in self.probed)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was planned, proved and run. `contradictions` is empty when all agree.

    Where the plan does not work (`Plan.why_not`), `switch` is what its kernel dies in, or empty
    where it refuses to go on by itself: then nothing is proved. `wrong` is what the tables map
    otherwise than planned (`ttbr.linux.mapped`), None where the tables are not the plan's own.
    """

    plan: Plan
    switch: str
    proof: Proof | None
    ran: tuple[Ran, ...]
    wrong: tuple[str, ...] | None = None

    @property
    def works(self) -> bool:
        """Whether the plan works and its switch is safe."""
        return self.plan.applicable and self.proof is not None and self.proof.result.safe

    @property
    def contradictions(self) -> tuple[str, ...]:
        found = []
        if self.wrong:
            found.append("the tables do not map what was planned")
        for ran in self.ran:
            died = ran.outcome is not None and not ran.outcome.reached
            if self.proof is not None and self.proof.result.safe and died:
                found.append(f"proved {self.proof.verdict}, but on {ran.emulator} it died")
            if ran.differences:
                found.append(f"{ran.differences} probes on {ran.emulator} differ from the walk")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is verified: the switch, its proof, its run, and its tables made at another base."""

    switch: str
    prove: Callable[[], Proof]
    job: Job
    base: int
    tables: Callable[[int], tuple[Tables, ...]]


def _subject(strategy: str, config: KernelConfig, board: Board, chosen: Plan) -> _Subject | None:
    """What can be verified of *chosen*: its switch; where the kernel's own ID map does not reach
    the image, the MMU's being turned on; None where neither is."""

    def el1(base: int) -> tuple[Tables, ...]:
        made = el1_tables(config, board, Arena.at(base, config.granule))
        return made.kernel, made.idmap

    def own(base: int) -> tuple[Tables, ...]:
        return realise(chosen, Arena.at(base, chosen.config.granule)).tables

    if not chosen.applicable:
        if not id_map(config).why_not:
            return None
        problem, job = el1_problem("enable", config, board), sequence_job("enable", config, board)
        return _Subject("enable", lambda: prove_all(problem), job, PROBE_BASE, el1)
    job = planned_job(strategy, config, board)
    if strategy == "vhe":
        vhe = vhe_problem(config, board)
        return _Subject("vhe", lambda: prove_all(vhe), job, PROBE_BASE, el1)
    base = table_base(chosen)
    return _Subject(strategy, lambda: prove_all(planned_problem(chosen)), job, base, own)


def _on_unicorn(subject: _Subject, say: Say) -> Ran:
    from ttbr.emulate.replay import replay
    from ttbr.emulate.sides import UnicornSide
    from ttbr.emulate.unicorn_at import UnicornAt
    from ttbr.emulate.unicorn_run import run_both

    say("running on Unicorn")
    try:
        both = run_both(subject.job)
    except UnsupportedError as error:  # FEAT_LPA2 and 52 bits: its instructions, our walk, no AT
        return Ran("unicorn", replay(subject.job), not_probed=str(error))
    say("probing on Unicorn")
    with UnicornAt() as cpu:
        side = UnicornSide(cpu)
        probed = tuple(probe_tables(side, t) for t in subject.tables(subject.base))
    return Ran("unicorn", both.warm, both.stale, probed)


def _on_qemu(subject: _Subject, say: Say) -> Ran:
    from ttbr.emulate import qemu_run
    from ttbr.emulate.qemu_at import QemuAt
    from ttbr.emulate.sides import QemuSide

    say("probing on QEMU")
    with QemuAt() as cpu:
        side = QemuSide(cpu)
        probed = tuple(probe_tables(side, t) for t in subject.tables(PROBE_BASE))
    lowest = min(subject.job.memory)
    if lowest < qemu_run.VIRT.ram:
        why = f"its machine has no RAM below {qemu_run.VIRT.ram:#x}"
        return Ran("qemu", None, None, probed, why)
    say("running on QEMU")
    machine = qemu_run.SBSA_REF if lowest >= qemu_run.SBSA_REF.ram else qemu_run.VIRT
    outcome = qemu_run.run(subject.job, machine)
    return Ran("qemu", outcome, outcome.stale, probed)


def _ran(name: str, subject: _Subject, say: Say) -> Ran:
    """What *name* shows; one that breaks down (a QEMU that is killed) says so."""
    try:
        return (_on_unicorn if name == "unicorn" else _on_qemu)(subject, say)
    except TtbrError as error:
        return Ran(name, None, why_not=str(error), failed=True)


def verify(
    strategy: str,
    config: KernelConfig,
    board: Board,
    emulators: Iterable[str] | None = None,
    say: Say = lambda _: None,
) -> Verified:
    """Prove *strategy* for *config* on *board*, and run and probe it on each of *emulators*.

    By default on all of `EMULATORS`; one that is not installed is then left out and says so. A
    plan that does not work is refuted: see `Verified`. *say* is told what is being done.
    """
    chosen = plan(strategy, config, board)
    subject = _subject(strategy, config, board, chosen)
    if subject is None:
        return Verified(chosen, "", None, ())
    say("proving")
    proof = subject.prove()
    ran = []
    for name in dict.fromkeys(EMULATORS if emulators is None else emulators):
        why = _missing(name) if emulators is None else ""
        ran.append(Ran(name, None, why_not=why) if why else _ran(name, subject, say))
    wrong = None
    if chosen.roots:
        say("comparing the tables with the plan")
        arena = Arena.at(table_base(chosen), chosen.config.granule)
        wrong = wrongly_mapped(realise(chosen, arena))
    return Verified(chosen, subject.switch, proof, tuple(ran), wrong)


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
