"""Prove that an MMU switch is safe on every CPU that the architecture allows, or show why not.

The question is a scenario file, a strategy for a board and a kernel, or an EL1 sequence of Linux.
Exit status: 0 safe (perhaps under named assumptions), 1 unsafe, 2 bad use.
"""

from ttbr.errors import InvalidError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ttbr.switch.problem import Problem
    from ttbr.switch.prove import Proof

__all__ = ["configure", "problem_from", "run"]


def configure(parser: "ArgumentParser") -> None:
    from ttbr.cli.plan import add_kernel

    parser.add_argument("scenario", metavar="SCENARIO.toml", nargs="?", help="a scenario file")
    parser.add_argument("--strategy", metavar="NAME", help="the EL2 switch of this strategy")
    parser.add_argument("--sequence", metavar="NAME", help="this EL1 sequence of Linux")
    parser.add_argument("--board", metavar="BOARD", help="for --strategy and --sequence")
    add_kernel(parser, required=False)
    parser.add_argument("--bbm", choices=("0", "1", "2", "2na"), help="FEAT_BBM level")
    parser.add_argument("--ets2", action="store_true", help="the CPU has FEAT_ETS2")
    parser.add_argument("--ntlbpa", action="store_true", help="the CPU has FEAT_nTLBPA")
    parser.add_argument(
        "--all-policies", action="store_true", help="show the verdict under each assumption"
    )
    parser.add_argument("--barriers", action="store_true", help="which barriers carry the proof")
    parser.add_argument("--exposure", action="store_true", help="what speculation may reach")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _planned(options: "Namespace") -> "Problem":
    """The problem of --strategy or --sequence."""
    from ttbr.cli.plan import planned_from
    from ttbr.linux.strategies import plan
    from ttbr.switch.planned import el1_problem, planned_problem, vhe_problem

    board, config = planned_from(options)
    if options.sequence is not None:
        return el1_problem(options.sequence, config, board)
    if options.strategy == "vhe":
        return vhe_problem(config, board)
    return planned_problem(plan(options.strategy, config, board))


def problem_from(options: "Namespace") -> "Problem":
    """The problem that the arguments ask for, with the CPU options applied."""
    from dataclasses import replace

    given = [name for name in ("scenario", "strategy", "sequence") if getattr(options, name)]
    if len(given) != 1:
        raise InvalidError("give one of SCENARIO.toml, --strategy and --sequence")
    if options.scenario is not None:
        from ttbr.switch.scenario import read_scenario

        problem = read_scenario(options.scenario).problem
    else:
        problem = _planned(options)
    changed = problem.options
    if options.bbm is not None:
        changed = replace(changed, bbm=options.bbm)
    changed = replace(
        changed,
        ets2=changed.ets2 or options.ets2,
        ntlbpa=changed.ntlbpa or options.ntlbpa,
    )
    return replace(problem, options=changed)


def _text(proof: "Proof", options: "Namespace") -> list[str]:
    from ttbr.report.proof import barriers, counterexamples, exposures, policies, summary

    lines = summary(proof)
    if options.all_policies:
        lines += policies(proof)
    lines += counterexamples(proof)
    if options.barriers:
        lines += barriers(proof)
    if options.exposure:
        lines += exposures(proof)
    return lines


def run(options: "Namespace") -> int:
    from ttbr.switch.prove import prove_all

    proof = prove_all(problem_from(options))
    if options.json:
        import json

        from ttbr.report.proof import plain

        print(json.dumps(plain(proof), indent=2))
    else:
        print("\n".join(_text(proof, options)))
    return int(not proof.result.safe)
