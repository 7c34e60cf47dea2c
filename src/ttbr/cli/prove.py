"""Prove that an MMU switch is safe on every CPU that the architecture allows, or show why not.

The question is a scenario file, a strategy for a board and a kernel, an EL1 sequence of Linux, or
machine code on captured tables.
Exit status: 0 safe (perhaps under named assumptions), 1 unsafe, 2 bad use.
"""

from functools import cache

from ttbr.cli.progress import say
from ttbr.cli.source import number
from ttbr.errors import InvalidError
from ttbr.memory.segments import map_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ttbr.switch.machinecode import MachineCode
    from ttbr.switch.problem import Intent, Problem
    from ttbr.switch.prove import Proof
    from ttbr.switch.scenario import Scenario

GENERAL = (*(f"x{number}" for number in range(31)), "sp")

__all__ = ["add_subject", "configure", "problem_from", "proof_of", "run", "scenario_from"]


def _add_captured(parser: "ArgumentParser") -> None:
    group = parser.add_argument_group("machine code on captured tables")
    group.add_argument("--elf", metavar="FILE", help="an ELF file, such as vmlinux")
    group.add_argument("--symbol", metavar="NAME", help="the routine in it")
    group.add_argument(
        "--code",
        metavar="FILE",
        action="append",
        default=[],
        help="raw machine code instead of --elf (repeat, with --at: the first is the routine)",
    )
    group.add_argument(
        "--at",
        metavar="VA",
        action="append",
        default=[],
        help="where it runs (--elf: default, as linked)",
    )
    group.add_argument(
        "--entry", metavar="VA", help="where it starts (default: the captured PC if it is in it)"
    )
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
    group.add_argument(
        "--word",
        metavar="PA=VALUE",
        action="append",
        default=[],
        help="a 64-bit word of data that the capture leaves out (repeat)",
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


def add_subject(parser: "ArgumentParser") -> None:
    """What is proved or run: a scenario file, a strategy or a sequence, with its kernel."""
    from ttbr.cli.plan import add_kernel

    parser.add_argument(
        "scenario", metavar="SCENARIO.toml", nargs="?", help="a scenario file; - for stdin"
    )
    parser.add_argument("--strategy", metavar="NAME", help="the EL2 switch of this strategy")
    parser.add_argument("--sequence", metavar="NAME", help="this EL1 sequence of Linux")
    parser.add_argument("--board", metavar="BOARD", help="for --strategy and --sequence")
    add_kernel(parser, required=False)


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr prove``."""
    add_subject(parser)
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
    from dataclasses import replace

    from ttbr.cli.plan import planned_from
    from ttbr.linux.strategies import plan
    from ttbr.switch.planned import el1_problem, planned_problem, vhe_problem

    board, config = planned_from(options)
    if options.sequence is not None:
        problem = el1_problem(options.sequence, config, board)
    elif options.strategy == "vhe":
        problem = vhe_problem(config, board)
    else:
        problem = planned_problem(plan(options.strategy, config, board))
    return replace(problem, devices=tuple((w.start, w.size) for w in board.mmio))


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidError(f"{option} {text!r}: must be {form}")
    return name, value


def _reach(text: str) -> "Intent":
    from ttbr.switch.problem import Intent

    va, rest = _pair(text, "--reach", "VA=PA[:SIZE]")
    pa, _, size = rest.partition(":")
    length = number(size, "--reach size") if size else 4096
    return Intent(number(va, "--reach"), length, number(pa, "--reach", 52), name="--reach")


def _machine_code(options: "Namespace") -> "list[MachineCode]":
    """The routine of --elf, or those of --code; the first is the one that runs."""
    from ttbr.switch.machinecode import MachineCode, from_elf

    places = [number(text, "--at") for text in options.at]
    if options.elf is not None:
        if options.symbol is None:
            raise InvalidError("--elf needs --symbol")
        if len(places) > 1:
            raise InvalidError("--at: one place for one --elf")
        return [from_elf(options.elf, options.symbol, *places)]
    if len(places) != len(options.code):
        raise InvalidError("--code needs --at, one for each")
    files = zip(options.code, places, strict=True)
    return [MachineCode(bytes(map_file(file)), at, at) for file, at in files]


def _entry(text: str | None, routine: "MachineCode", pc: int | None) -> int:
    """Where *routine* starts: --entry, or the captured *pc* if it is in it."""
    if text is not None:
        entry = number(text, "--entry")
        if not routine.holds(entry):
            raise InvalidError(f"--entry {entry:#x}: not in the code at {routine.base:#x}")
        return entry
    inside = pc is not None and routine.entry <= pc < routine.end_of(routine.entry)
    return pc if inside and pc is not None else routine.entry


def _captured(options: "Namespace") -> "Problem":
    """The problem of --elf or --code on --capture."""
    from ttbr.memory import Segment, SegmentMemory, open_image, read_registers
    from ttbr.switch.captured import captured_problem
    from ttbr.switch.program import Layout

    if options.capture is None:
        raise InvalidError("--elf and --code need --capture")
    image = open_image(options.capture)
    state = image.registers if options.regs is None else read_registers(options.regs)
    code = _machine_code(options)
    entry = _entry(options.entry, code[0], state.general.get("pc"))
    given = dict(_pair(text, "--set", "REG=VALUE") for text in options.set)
    registers = {**state.general, **state.values}
    for name, value in given.items():
        low = name.lower()
        registers[low if low in GENERAL else name.upper()] = number(value, f"--set {name}")
    if state.el is None:
        raise InvalidError(f"{options.capture}: does not tell the exception level")
    page = 4096
    empty = [Segment(number(text, "--empty", 52), page, bytes(page)) for text in options.empty]
    words = dict(_pair(text, "--word", "PA=VALUE") for text in options.word)
    data = [
        Segment(number(pa, "--word", 52), 8, number(value, f"--word {pa}").to_bytes(8, "little"))
        for pa, value in words.items()
    ]
    return captured_problem(
        Layout(entry, tuple((piece, 0) for piece in code)),
        SegmentMemory([*image.segments, *empty]),
        registers,
        state.el,
        reach=[_reach(text) for text in options.reach],
        stop=[number(text, "--stop") for text in options.stop],
        data=data,
        returns=[
            text if text in ("hvc", "smc") else number(text, "--returns")
            for text in options.returns
        ],
        unknown_tlb=False if options.known_tlb else None,
        name=options.symbol or options.code[0],
    )


@cache
def _standard_input() -> tuple[str, str]:
    """Its text, read once, and what errors call it."""
    from ttbr.cli.build import read_input

    return read_input("-")


def scenario_from(name: str) -> "Scenario":
    """The scenario in the file *name*, or on standard input for ``-``."""
    from ttbr.switch.scenario import parse_scenario, read_scenario

    return parse_scenario(*_standard_input()) if name == "-" else read_scenario(name)


def proof_of(options: "Namespace") -> "Proof":
    """The proof for arguments of another command, which has no options of the CPU."""
    if options.scenario is not None:
        return _proved(scenario_from(options.scenario).problem)
    return _proved(_planned(options))


def _proved(problem: "Problem") -> "Proof":
    """The proof; an error that does not name its place names the problem."""
    from ttbr.switch.document import within
    from ttbr.switch.prove import prove_all

    say("proving")
    try:
        return prove_all(problem)
    except InvalidError as error:
        if not problem.name or str(error).startswith(problem.name):
            raise
        with within(problem.name):
            raise


def problem_from(options: "Namespace") -> "Problem":
    """The problem that the arguments ask for, with the CPU options applied."""
    from dataclasses import replace

    kinds = ("scenario", "strategy", "sequence", "elf", "code")
    if len([name for name in kinds if getattr(options, name)]) != 1:
        raise InvalidError("give one of SCENARIO.toml, --strategy, --sequence, --elf and --code")
    if options.scenario is not None:
        problem = scenario_from(options.scenario).problem
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
    from ttbr.cli.plan import rules_note

    say("reading the problem")
    proof = _proved(problem_from(options))
    note = rules_note(options)
    say("explaining the proof")
    if options.json:
        import json

        from ttbr.report.proof import plain

        print(json.dumps({"note": note or None} | plain(proof, options.exposure), indent=2))
    else:
        if note:
            print(note)
        print("\n".join(_text(proof, options)))
    return int(not proof.result.safe)
