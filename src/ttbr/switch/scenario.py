"""A scenario file: program, tables, registers, intent and options of one proof, in TOML.

::

    title = "TTBR0_EL2 switched on a page that both tables map alike"
    why = "the leaf is identical in both trees, and the TLBI comes after the ISB"
    rules = ["R_NWYRD"]
    regime = "EL2"                           # EL1&0, EL2 or EL2&0: where the program starts
    granule = "4K"                           # of the tables; input_bits likewise
    input_bits = 48

    [expect]
    verdict = "SAFE"                         # or the list of what must be reported
    assuming = ["A-IC"]

    [region]  [table.*]  [descriptor]  [place]       # see ttbr.switch.scenario_tables

    [memory]
    tables = 0x6000_0000                     # where tables are built
    capture = "tables.elf.gz"                # or a captured core
    empty = [0x80_004c_6000]                 # tables without entries that it leaves out
    words = { 0x4000_0000 = 5 }              # data that the program loads, by physical address
    device = [[0x900_0000, 0x1000]]          # Device memory (address, size), for --exposure

    [registers]
    from = ["boot"]                          # TTBR, TCR, MAIR, SCTLR of these tables
    capture = "state.json"                   # or all registers of a capture
    mmu = false                              # SCTLR_ELx.M at the start
    TCR_EL2 = { from = "boot", T0SZ = 25 }   # by field
    x0 = "hyp.TTBR0_EL2"                     # an expression
    x1 = { register = "TCR_EL2", T0SZ = 25 } # a value for that register, by field or from tables

    [program]
    at = "code"                              # a region, or an address
    also = ["runtime"]                       # the same code, seen through another region
    text = '''msr ttbr0_el2, x0 ...'''       # or file, code (raw), hex; elf and symbol; linux
                                             # with release: a routine of ttbr.linux.sequences

    [intent]
    reach = ["code", "runtime"]              # what the program's accesses are meant to reach
    fault = ["beyond"]                       # and may fault on
    unmapped = ["hole"]
    end = ["runtime"]                        # also judged after the last step
    always = ["vectors"]                     # and at every step

    [options]
    bbm = "2na"
    ets2 = true
    drop = ["A-IC"]                          # assumptions that must not be used

Symbols in expressions and in the program: each region (its va), descriptor and place, the labels of
the program, and ``table.root`` and ``table.REGISTER`` of each table.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ttbr.arch.geometry import granule
from ttbr.arch.regime import regime_of
from ttbr.errors import InvalidError, MemoryFault, UnreadableError
from ttbr.memory.segments import Segment
from ttbr.switch.document import Section, parse, within
from ttbr.switch.judge import KINDS
from ttbr.switch.problem import ASSUMPTIONS, Environment, Intent, Options, Problem
from ttbr.switch.program import Code, Msr, Trace
from ttbr.switch.prove import SAFE
from ttbr.switch.scenario_intent import read_intents
from ttbr.switch.scenario_program import load_program, placed, run_program
from ttbr.switch.scenario_registers import read_register_section
from ttbr.switch.scenario_tables import (
    REGIMES,
    Forest,
    captured_segments,
    make_tables,
    read_regime,
    read_regions,
)
from ttbr.switch.syntax import Scanner

__all__ = ["Expectation", "Scenario", "parse_scenario", "read_scenario"]

_OPTIONS = ("bbm", "ets2", "ntlbpa", "exs", "line", "drop", "unknown_tlb")
_SECTIONS = (
    *("title", "why", "rules", "regime", "granule", "input_bits", "expect", "region", "table"),
    *("descriptor", "place", "memory", "registers", "program", "intent", "options"),
    "environment",
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the proof is expected to say: ``SAFE`` or the kinds of failure, and the assumptions."""

    verdict: tuple[str, ...]
    assuming: frozenset[str]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as read: the question, the run that it asks about, and what is expected.

    `code` and `registers` (x0 to x30 and system registers) are what the run started from.
    """

    name: str
    title: str
    why: str
    rules: tuple[str, ...]
    problem: Problem
    trace: Trace
    expected: Expectation | None
    code: Code
    registers: Mapping[str, int]


def read_scenario(path: str | os.PathLike[str]) -> Scenario:
    """The scenario in the file *path*; files that it names are relative to it."""
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadableError(f"{name}: not a text file") from None
    return parse_scenario(text, name, os.path.dirname(name))


def parse_scenario(text: str, source: str, folder: str = "") -> Scenario:
    """The scenario *text*.

    `UnreadableError` for a syntax error (with line and column) or a file that cannot be read,
    `InvalidError` for everything that contradicts itself, is unknown or is missing.
    """
    document = parse(text, source)
    document.only(*_SECTIONS)
    return _Reader(document, text, folder).read()


class _Reader:
    """Reads the sections in the order in which they need each other."""

    def __init__(self, document: Section, text: str, folder: str) -> None:
        self.source = document.where
        self.folder = folder
        self.text = text
        self.symbols: dict[str, int] = {}
        self.document = document.with_values(self.value)
        self.regime = read_regime(self.document, None)

    def value(self, expression: str) -> int:
        """An expression over the symbols that are known by now."""
        scanner = Scanner(expression, "", symbols=self.symbols.get)
        try:
            found = scanner.expression()
            scanner.finish()
        except InvalidError as error:
            raise InvalidError(f"{expression!r}: {str(error).split(': ', 1)[-1]}") from None
        return found % (1 << 64)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def read(self) -> Scenario:
        document = self.document
        regions = read_regions(document.section("region"))
        self.symbols |= {name: region.va for name, region in regions.items()}
        memory = document.section("memory")
        memory.only("tables", "capture", "empty", "words", "device")
        with within(self.source):
            page = granule(document.text("granule", "4K")).size
        captured = captured_segments(memory, self.path, page)
        forest = make_tables(document, self.regime, regions, captured)
        intents = read_intents(document.section("intent"), regions, document.section("region"))
        forest.regimes |= {i.regime for i in intents if i.regime}
        self.name_places(forest, intents)
        physical = forest.memory(*_words(memory))
        program = document.section("program")
        loaded, labels = load_program(program, self.source, self.text, self.path, self.symbols)
        self.symbols |= labels
        code = placed(program, loaded, intents)
        registers = read_register_section(document.section("registers"), forest, self.path)
        trace = run_program(program, code, REGIMES[self.regime], registers, intents, physical)
        problem = Problem(
            physical,
            forest.extents,
            {name: v for name, v in registers.items() if name.isupper()},
            trace.steps,
            intents,
            self.options(),
            self.environment(forest),
            self.unknown_tlb(),
            trace.end.target,
            self.source,
            _devices(memory),
        )
        self.check(problem, forest)
        return Scenario(
            os.path.splitext(os.path.basename(self.source))[0],
            document.text("title"),
            document.text("why", ""),
            document.names("rules"),
            problem,
            trace,
            self.expected(),
            code,
            registers,
        )

    def check(self, problem: Problem, forest: Forest) -> None:
        with within(self.source):
            problem.check()
            for regime in forest.regimes:
                check_roots(problem, regime)

    def name_places(self, forest: Forest, intents: tuple[Intent, ...]) -> None:
        """Add the symbols of tables, descriptors and places."""
        self.symbols |= forest.symbols()
        descriptors, places = self.document.section("descriptor"), self.document.section("place")
        for name in descriptors.fields:
            self.symbols[name] = forest.descriptor(descriptors.section(name))
        for name in places.fields:
            place = forest.descriptor_address(places.section(name))
            self.symbols[name] = _seen_at(places, name, place, intents)

    def options(self) -> Options:
        section = self.document.section("options")
        section.only(*_OPTIONS)
        with within(section.where):
            dropped = Options(assumptions=frozenset(section.names("drop"))).assumptions
            return Options(
                section.text("bbm", "0"),
                section.flag("ets2", False),
                section.flag("ntlbpa", False),
                section.flag("exs", False),
                section.number("line", 64),
                assumptions=frozenset(ASSUMPTIONS) - dropped,
            )

    def unknown_tlb(self) -> bool | None:
        section = self.document.section("options")
        return section.flag("unknown_tlb", False) if "unknown_tlb" in section.fields else None

    def environment(self, forest: Forest) -> tuple[Environment, ...]:
        return tuple(
            Environment(self.regime, read_register_section(section, forest, self.path))
            for section in self.document.sections("environment")
        )

    def expected(self) -> Expectation | None:
        section = self.document.section("expect")
        section.only("verdict", "assuming")
        if not section.fields:
            return None
        verdict, assuming = section.names("verdict"), section.names("assuming")
        for name in verdict:
            if name not in KINDS and verdict != (SAFE,):
                raise section.error(
                    "verdict", f"{name!r}: must be {SAFE}, or of {', '.join(KINDS)}"
                )
        for name in assuming:
            if name not in ASSUMPTIONS:
                raise section.error("assuming", f"{name!r}: must be of {', '.join(ASSUMPTIONS)}")
        return Expectation(verdict, frozenset(assuming))


def check_roots(problem: Problem, regime: str) -> None:
    """Refuse a TTBR of *regime*, in force at the start or written, whose table memory lacks."""
    registers, el = dict(problem.registers), REGIMES[regime]
    ttbrs = {f"TTBR{n}_EL{el}" for n in (0, 1)}
    on = registers.get(f"SCTLR_EL{el}", 0) & 1
    waiting = _check_roots(problem, regime, registers, ttbrs if on else set())
    for step in problem.steps:
        for event in step.events:
            if isinstance(event, Msr) and event.value is not None:
                registers[event.register] = event.value
                waiting |= ttbrs & {event.register}
                waiting = _check_roots(problem, regime, registers, waiting)


def _check_roots(
    problem: Problem, regime: str, registers: dict[str, int], names: set[str]
) -> set[str]:
    """Check the TTBRs *names*; left are those that wait for a TCR with a valid input size."""
    try:
        halves = regime_of(registers, regime).halves if names else ()
    except InvalidError:  # judged, or refused, by the proof where it matters
        return names
    for half in halves:
        if half.name in names and not half.epd:
            try:
                problem.memory.read(half.root, 8)
            except MemoryFault:
                raise InvalidError(
                    f"{half.name}: the table at {half.root:#x} is not in memory"
                ) from None
    return names - {half.name for half in halves}


def _words(section: Section) -> list[Segment]:
    """``memory.words``: 64-bit words by physical address."""
    words = section.section("words")
    found = []
    for key in words.fields:
        try:
            address = int(key, 0)
        except ValueError:
            raise words.error(key, "is not an address") from None
        found.append(Segment(address, 8, words.number(key).to_bytes(8, "little")))
    return found


def _devices(section: Section) -> tuple[tuple[int, int], ...]:
    """``memory.device``: extents of Device memory."""
    found = []
    for pair in section.lists("device"):
        if len(pair) != 2 or not pair[1]:
            raise section.error("device", "is not a list of [address, size]")
        found.append((pair[0], pair[1]))
    return tuple(found)


def _seen_at(section: Section, name: str, place: int, intents: tuple[Intent, ...]) -> int:
    """The virtual address by which the program reaches the physical address *place*."""
    for intent in intents:
        if intent.pa is not None and intent.pa <= place < intent.pa + intent.size:
            return intent.va + place - intent.pa
    raise section.error(name, f"no intent reaches the descriptor at {place:#x}")
