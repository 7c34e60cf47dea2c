"""Prove that an MMU switch is safe on every CPU that the architecture allows, or show why not.

The question is a scenario file, a strategy for a board and a kernel, an EL1 sequence of Linux, or
machine code on captured tables.
Exit status: 0 safe (perhaps under named assumptions), 1 unsafe, 2 bad use.
"""

from ttbr.cli.source import number
from ttbr.errors import InvalidError
from ttbr.memory.segments import map_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ttbr.switch.problem import Intent, Problem
    from ttbr.switch.prove import Proof

GENERAL = (*(f"x{number}" for number in range(31)), "sp")

__all__ = ["configure", "problem_from", "proof_of", "run"]


def _add_captured(parser: "ArgumentParser") -> None:
    group = parser.add_argument_group("machine code on captured tables")
    group.add_argument("--elf", metavar="FILE", help="an ELF file, such as vmlinux")
    group.add_argument("--symbol", metavar="NAME", help="the routine in it")
    group.add_argument("--code", metavar="FILE", help="raw machine code instead of --elf")
    group.add_argument("--at", metavar="VA", help="where it runs (--elf: default, as linked)")
    group.add_argument("--capture", metavar="IMAGE", help="ELF core with tables and registers")
    group.add_argument("--regs", metavar="FILE", help="registers, where the core has none")
    group.add_argument(
        "--set", metavar="REG=VALUE", action="append", default=[], help="a register (repeat)"
    )
    group.add_argument(
        "--reach",
        metavar="VA=PA[:SIZE]",
        action="append",
        default=[],
        help="what must be reached besides what was mapped before (repeat)",
    )
    group.add_argument(
        "--empty",
        metavar="PA",
        action="append",
        default=[],
        help="an empty table that the capture leaves out (repeat)",
    )
    group.add_argument("--known-tlb", action="store_true", help="nothing unknown is in the TLB")
    group.add_argument(
        "--stop", metavar="VA", action="append", default=[], help="end before this (repeat)"
    )
    group.add_argument(
        "--returns",
        metavar="VA",
        action="append",
        default=[],
        help="a call target, hvc or smc that is taken to return (repeat)",
    )


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr prove``."""
    from ttbr.cli.plan import add_kernel

    parser.add_argument("scenario", metavar="SCENARIO.toml", nargs="?", help="a scenario file")
    parser.add_argument("--strategy", metavar="NAME", help="the EL2 switch of this strategy")
    parser.add_argument("--sequence", metavar="NAME", help="this EL1 sequence of Linux")
    parser.add_argument("--board", metavar="BOARD", help="for --strategy and --sequence")
    add_kernel(parser, required=False)
    _add_captured(parser)
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


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidError(f"{option} {text!r}: must be NAME=VALUE")
    return name, value


def _reach(text: str) -> "Intent":
    from ttbr.switch.problem import Intent

    va, rest = _pair(text, "--reach")
    pa, _, size = rest.partition(":")
    length = number(size, "--reach size") if size else 4096
    return Intent(number(va, "--reach"), length, number(pa, "--reach", 52), name="--reach")


def _captured(options: "Namespace") -> "Problem":
    """The problem of --elf or --code on --capture."""
    from ttbr.memory import Segment, SegmentMemory, open_image, read_registers
    from ttbr.switch.captured import captured_problem
    from ttbr.switch.machinecode import MachineCode, from_elf

    if options.capture is None:
        raise InvalidError("--elf and --code need --capture")
    image = open_image(options.capture)
    state = image.registers if options.regs is None else read_registers(options.regs)
    at = None if options.at is None else number(options.at, "--at")
    if options.elf is not None:
        if options.symbol is None:
            raise InvalidError("--elf needs --symbol")
        code = from_elf(options.elf, options.symbol, at)
    else:
        if at is None:
            raise InvalidError("--code needs --at")
        code = MachineCode(bytes(map_file(options.code)), at, at)
    given = dict(_pair(text, "--set") for text in options.set)
    registers = {**state.general, **state.values}
    for name, value in given.items():
        low = name.lower()
        registers[low if low in GENERAL else name.upper()] = number(value, f"--set {name}")
    if state.el is None:
        raise InvalidError(f"{options.capture}: does not tell the exception level")
    page = 4096
    empty = [Segment(number(text, "--empty", 52), page, bytes(page)) for text in options.empty]
    return captured_problem(
        code,
        SegmentMemory([*image.segments, *empty]),
        registers,
        state.el,
        reach=[_reach(text) for text in options.reach],
        stop=[number(text, "--stop") for text in options.stop],
        returns=[
            text if text in ("hvc", "smc") else number(text, "--returns")
            for text in options.returns
        ],
        unknown_tlb=False if options.known_tlb else None,
        name=options.symbol or options.code,
    )


def proof_of(options: "Namespace") -> "Proof":
    """The proof for arguments of another command, which has no options of the CPU."""
    from ttbr.switch.prove import prove_all

    if options.scenario is not None:
        from ttbr.switch.scenario import read_scenario

        return prove_all(read_scenario(options.scenario).problem)
    return prove_all(_planned(options))


def problem_from(options: "Namespace") -> "Problem":
    """The problem that the arguments ask for, with the CPU options applied."""
    from dataclasses import replace

    kinds = ("scenario", "strategy", "sequence", "elf", "code")
    if len([name for name in kinds if getattr(options, name)]) != 1:
        raise InvalidError("give one of SCENARIO.toml, --strategy, --sequence, --elf and --code")
    if options.scenario is not None:
        from ttbr.switch.scenario import read_scenario

        problem = read_scenario(options.scenario).problem
    elif options.strategy is not None or options.sequence is not None:
        problem = _planned(options)
    else:
        problem = _captured(options)
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
    """Run ``ttbr prove``; the exit status."""
    from ttbr.switch.prove import prove_all

    proof = prove_all(problem_from(options))
    if options.json:
        import json

        from ttbr.report.proof import plain

        print(json.dumps(plain(proof), indent=2))
    else:
        print("\n".join(_text(proof, options)))
    return int(not proof.result.safe)
