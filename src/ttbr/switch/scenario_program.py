"""The program of a scenario: where it comes from, and its run."""

import re
from collections.abc import Callable, Mapping

from ttbr.errors import InvalidError, MemoryFault, UnreadableError
from ttbr.linux.eras import version
from ttbr.linux.sequences import SEQUENCES, sequence
from ttbr.memory.segments import SegmentMemory
from ttbr.switch.assembly import Assembly, assemble
from ttbr.switch.document import Section, within
from ttbr.switch.interpreter import run
from ttbr.switch.machinecode import MachineCode, from_elf
from ttbr.switch.problem import Intent
from ttbr.switch.program import Code, Layout, Trace

__all__ = ["load_program", "placed", "run_program"]

_SOURCES = ("text", "file", "linux", "code", "hex", "elf")
_FIELDS = (*_SOURCES, "release", "symbol", "at", "also", "entry", "el", "stop", "faults", "returns")
_TEXT = re.compile(r"^[ \t]*text[ \t]*=[ \t]*(?:\"\"\"|''')(\r?\n)?", re.MULTILINE)


def load_program(
    section: Section,
    source: str,
    document: str,
    path: Callable[[str], str],
    symbols: Mapping[str, int],
) -> tuple[Assembly | MachineCode, Mapping[str, int]]:
    """(code, its labels). *document* is the scenario's text, for line numbers of ``text``."""
    section.only(*_FIELDS)
    given = [key for key in _SOURCES if key in section.fields]
    if len(given) != 1:
        raise section.error("text", f"give one of {', '.join(_SOURCES)}")
    key = given[0]
    if key == "elf":
        at = section.number("at") if "at" in section.fields else None
        code: Assembly | MachineCode = from_elf(
            path(section.text("elf")), section.text("symbol"), at
        )
    elif key in ("text", "file", "linux"):
        code = _assembled(section, key, source, document, path, symbols)
    else:
        base = section.number("at")
        code = MachineCode(_bytes(section, key, path), base, base)
    labels = {n: v for n, v in code.symbols.items() if n not in symbols}
    return code, labels


def _assembled(
    section: Section,
    key: str,
    source: str,
    document: str,
    path: Callable[[str], str],
    symbols: Mapping[str, int],
) -> Assembly:
    text, name, line = section.text(key), source, 1
    if key == "file":
        name = path(text)
        text = _read(name).decode("utf-8", "replace")
    elif key == "linux":
        name, text = f"linux {text}", _sequence(section)
    else:
        found = _TEXT.search(document)
        if found is None:
            name = f"{source}: program"
        else:
            line = document.count("\n", 0, found.end()) + 1
    return assemble(text, section.number("at"), name, symbols, line)


def _sequence(section: Section) -> str:
    """The text of a routine of a Linux release."""
    name = section.text("linux")
    if name not in SEQUENCES:
        raise section.error("linux", f"{name!r}: must be one of {', '.join(SEQUENCES)}")
    with within(section.where):
        return sequence(name, version(section.text("release"))).text


def _read(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror}") from None


def _bytes(section: Section, key: str, path: Callable[[str], str]) -> bytes:
    if key == "code":
        return _read(path(section.text("code")))
    try:
        words = [int(word, 16) for word in section.text("hex").split()]
        return b"".join(word.to_bytes(4, "little") for word in words)
    except (ValueError, OverflowError):
        raise section.error("hex", "is not a list of 32-bit words") from None


def placed(section: Section, code: Assembly | MachineCode, intents: tuple[Intent, ...]) -> Code:
    """The code where it is, and where ``also`` shows the same memory once more."""
    offsets = [0]
    base = section.number("at", code.entry)
    for name in section.names("also"):
        region = next((i for i in intents if i.name == name), None)
        if region is None:
            raise section.error("also", f"{name!r} is not a region of the intent")
        here = _output(base, intents)
        if here is None or region.pa is None or not 0 <= here - region.pa < region.size:
            raise section.error("also", f"{name} does not show the memory of the program")
        offsets.append(region.va + here - region.pa - base)
    entry = section.number("entry", code.entry)
    if offsets == [0] and entry == code.entry:
        return code
    return Layout(entry, tuple((code, offset) for offset in offsets))


def _output(va: int, intents: tuple[Intent, ...]) -> int | None:
    for intent in intents:
        if intent.pa is not None and intent.va <= va < intent.end:
            return intent.output(va)
    return None


class _Seen:
    """Memory as the program is meant to see it: virtual addresses through the intent."""

    def __init__(self, memory: SegmentMemory, intents: tuple[Intent, ...]) -> None:
        self.memory, self.intents = memory, intents

    def place(self, va: int) -> int:
        found = _output(va, self.intents)
        return va if found is None else found

    def read(self, address: int, size: int) -> bytes:
        if self.place(address) + size - 1 != self.place(address + size - 1):
            raise MemoryFault(address, size, "it crosses a boundary of the intent")
        return self.memory.read(self.place(address), size)


def run_program(
    section: Section,
    code: Code,
    el: int,
    registers: Mapping[str, int],
    intents: tuple[Intent, ...],
    memory: SegmentMemory,
) -> Trace:
    """Run the program on the scenario's memory, as the intent says it is seen."""
    el = section.number("el", el)
    if el not in (1, 2):
        raise section.error("el", f"{el}: proofs cover EL1 and EL2")
    returns = [
        str(name) if name in ("hvc", "smc") else section.number_from("returns", name)
        for name in section.items("returns")
    ]
    stop, faults = (section.numbers(key) for key in ("stop", "faults"))
    seen = _Seen(memory, intents)
    with within(section.where):
        trace = run(
            code, registers, el, seen, stop=stop, faults=faults, returns=returns, place=seen.place
        )
    if not trace.steps:
        raise InvalidError(f"{section.where}: the program has no instructions")
    return trace
