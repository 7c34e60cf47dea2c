"""Run a switch on an emulated CPU: the same tables, registers and instructions that `prove` judges.

Exit status: 0 it arrived, 1 it died, 2 bad use or no emulator.
"""

from ttbr.cli.progress import say
from ttbr.errors import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ttbr.emulate.run import Job, Outcome


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr run``."""
    from ttbr.cli.prove import add_subject

    add_subject(parser)
    parser.add_argument(
        "--on",
        choices=("unicorn", "qemu", "walk"),
        default="unicorn",
        help="the emulator; walk is Unicorn's instructions with ttbr's own walk (LPA2, 52 bits)",
    )
    parser.add_argument(
        "--machine", choices=("virt", "sbsa-ref"), default="virt", help="with --on qemu"
    )
    parser.add_argument("--cold", action="store_true", help="flush the TLB before each step")
    parser.add_argument(
        "--hostile",
        action="store_true",
        help="replay the proof's counterexample: --on walk, with its stale entries held",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _job(options: "Namespace") -> "Job":
    """The run that the arguments ask for."""
    if options.scenario is not None:
        from ttbr.cli.prove import scenario_from
        from ttbr.emulate.scenario_job import scenario_job

        scenario = scenario_from(options.scenario)
        return scenario_job(scenario.problem, scenario.code, scenario.registers)
    from ttbr.cli.plan import planned_from
    from ttbr.emulate.planned import planned_job, sequence_job

    board, config = planned_from(options)
    if options.sequence is not None:
        return sequence_job(options.sequence, config, board)
    return planned_job(options.strategy, config, board)


def _replayed(options: "Namespace", job: "Job") -> "Outcome":
    """The run under our walk. With --hostile it has the entries of the first finding that the
    emulator can show to fail, else of the first that fails because the proof says so."""
    from ttbr.emulate.replay import replay

    if not options.hostile:
        return replay(job)
    from ttbr.cli.prove import proof_of
    from ttbr.emulate.held import held_of
    from ttbr.errors import UnsupportedError

    result = proof_of(options).result
    say("replaying")
    if result.safe:
        raise InvalidError("--hostile: the proof says safe, there is no counterexample to replay")
    outcomes = []
    for finding in result.findings:
        try:
            outcome = replay(job, held_of(finding))
        except UnsupportedError:
            continue
        if outcome.death is not None and not outcome.death.decreed:
            return outcome
        outcomes.append(outcome)
    if not outcomes:
        raise InvalidError(f"--hostile: {', '.join(result.kinds)} shows in no single access")
    return next((outcome for outcome in outcomes if outcome.death is not None), outcomes[0])


def _outcome(options: "Namespace", job: "Job") -> "tuple[Outcome, str | None]":
    """(what happened, what relied on stale TLB entries)."""
    if options.cold and (options.on != "unicorn" or options.hostile):
        raise InvalidError("--cold: only Unicorn's own TLB can be flushed at each step")
    if options.on == "walk" or options.hostile:
        return _replayed(options, job), None
    if options.on == "qemu":
        from ttbr.emulate import qemu_run

        say("running on QEMU")
        machine = qemu_run.SBSA_REF if options.machine == "sbsa-ref" else qemu_run.VIRT
        outcome = qemu_run.run(job, machine=machine)
        return outcome, outcome.stale
    from ttbr.emulate import unicorn_run

    say("running on Unicorn")
    if options.cold:
        return unicorn_run.run(job, cold=True), None
    both = unicorn_run.run_both(job)
    return both.warm, both.stale


def run(options: "Namespace") -> int:
    """Run ``ttbr run``; the exit status."""
    from ttbr.cli.plan import rules_note
    from ttbr.report.executed import plain_outcome, text_outcome

    given = [name for name in ("scenario", "strategy", "sequence") if getattr(options, name)]
    if len(given) != 1:
        raise InvalidError("give one of SCENARIO.toml, --strategy and --sequence")
    outcome, stale = _outcome(options, _job(options))
    note = rules_note(options)
    if options.json:
        import json

        print(json.dumps({"note": note or None} | plain_outcome(outcome, stale), indent=2))
    else:
        if note:
            print(note)
        print(text_outcome(outcome, stale))
    return int(not outcome.reached)
