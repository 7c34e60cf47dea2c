"""A job from a proof's question: a CPU runs the very code, tables and registers that it judged."""

from collections.abc import Iterator, Mapping

from ttbr.emulate import encode
from ttbr.emulate.assembler import machine_code
from ttbr.emulate.run import PAGE, Job, blocks_of
from ttbr.emulate.unicorn_at import PSTATE, TRANSLATION_REGISTERS
from ttbr.errors import UnsupportedError
from ttbr.memory.segments import SegmentMemory
from ttbr.switch.assembly import Assembly
from ttbr.switch.machinecode import MachineCode
from ttbr.switch.problem import Problem
from ttbr.switch.program import Abort, Code, ExceptionEntry, Layout, Load, Store

__all__ = ["scenario_job"]

NOP = encode.NOP.to_bytes(4, "little")
# Registers that code uses besides those of translation.
OTHERS = tuple(f"{name}_EL{el}" for name in ("VBAR", "ELR", "SPSR", "TPIDR", "SP") for el in (1, 2))


def scenario_job(problem: Problem, code: Code, registers: Mapping[str, int]) -> Job:
    """The run that *problem* asks about: *code* as its intent places it in memory, from *registers*
    on, up to the address that is fetched after the last step.

    Memory that the program uses and that the problem does not give is zero. `UnsupportedError` for
    code that has no machine words, such as a store to a place by its name.
    """
    if not isinstance(problem.memory, SegmentMemory):
        raise UnsupportedError(f"{problem.name}: its memory cannot be copied to an emulator")
    first = problem.steps[0]
    memory = {
        s.address: bytes(s.data[s.offset : s.offset + s.size]) for s in problem.memory.segments
    }
    pieces: dict[int, bytes] = {}
    for va, image in _images(code):
        pieces.setdefault(_place(problem, va), image)
    last = problem.steps[-1].pc
    until = last + 4 if problem.target is None else problem.target
    used = {_place(problem, va) & -PAGE for va in (*_accesses(problem), until)}
    blocks = _lay(memory, pieces, used, _place(problem, until))
    known = {*TRANSLATION_REGISTERS, *OTHERS, "sp", *(f"x{n}" for n in range(31))}
    state = {name: value for name, value in registers.items() if name in known}
    state |= _returning(problem, state, until)
    if first.el == 2:
        state["HCR_EL2"] = first.hcr
    entries = {s.pc: e for s in problem.steps for e in s.events if isinstance(e, ExceptionEntry)}
    faults = {s.pc for s in problem.steps if any(isinstance(e, Abort) for e in s.events)}
    calls = {
        pc: None if event.vector is None else event.el
        for pc, event in entries.items()
        if pc not in faults
    }
    el = max(first.el, 1)
    return Job(problem.name, blocks, state, el, first.pc, until, frozenset(faults), calls)


def _returning(problem: Problem, state: Mapping[str, int], until: int) -> dict[str, int]:
    """Where a last ``ret`` or ``eret`` goes when nothing says it: on, behind the code."""
    last = problem.steps[-1]
    if problem.target is not None:
        return {}
    if last.text == "ret" and "x30" not in state:
        return {"x30": until}
    if last.text == "eret" and f"ELR_EL{last.el}" not in state:
        return {f"ELR_EL{last.el}": until, f"SPSR_EL{last.el}": PSTATE[last.el]}
    return {}


def _images(code: Code) -> Iterator[tuple[int, bytes]]:
    """(VA, bytes) of every part of *code*; the same bytes where a part is seen twice."""
    if isinstance(code, Layout):
        for part, offset in code.parts:
            for va, image in _images(part):
                yield va + offset, image
    elif isinstance(code, Assembly):
        yield code.entry, machine_code(code)
    elif isinstance(code, MachineCode):
        yield code.base, code.data
    else:
        raise UnsupportedError(f"{type(code).__name__}: no machine words")


def _place(problem: Problem, va: int) -> int:
    """The physical address that *va* is meant to reach; itself where no intent covers it."""
    for intent in problem.intent:
        if intent.va <= va < intent.end and intent.pa is not None:
            return intent.pa + va - intent.va
    # An address with a tag: bits 63:56 are as bit 55.
    plain = va | 0xFF << 56 if va >> 55 & 1 else va & ~(0xFF << 56)
    return va if plain == va else _place(problem, plain)


def _accesses(problem: Problem) -> Iterator[int]:
    for step in problem.steps:
        yield step.pc
        for event in step.events:
            if isinstance(event, Load | Store):
                yield event.va
                yield event.va + event.size - 1


def _lay(
    memory: Mapping[int, bytes], pieces: Mapping[int, bytes], used: set[int], until: int
) -> dict[int, bytes]:
    """*memory*, zeros for *used* pages that it lacks, a NOP at the end, and the code *pieces*."""
    for address, image in pieces.items():
        used |= set(range(address & -PAGE, address + len(image), PAGE))
    given = blocks_of(memory)
    held = {page for a, block in given.items() for page in range(a, a + len(block), PAGE)}
    blocks = blocks_of(given | {page: bytearray(PAGE) for page in used - held})
    for address, image in ((until, NOP), *pieces.items()):
        base = max((base for base in blocks if base <= address), default=0)
        blocks[base][address - base : address - base + len(image)] = image
    return {address: bytes(block) for address, block in blocks.items()}
