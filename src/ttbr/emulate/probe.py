"""Probe tables with AT on an emulated CPU: at the edges of every leaf, and in the gaps.

The answers are compared with the walk's through the quirk table (`ttbr.emulate.differential`).
"""

from collections.abc import Iterable, Iterator, Mapping

from ttbr.arch.regime import EL1, EL2, EL3, EL20, WalkParams, regime_of
from ttbr.build import Tables
from ttbr.emulate.differential import Report, compare_one
from ttbr.emulate.run import blocks_of
from ttbr.emulate.scenarios import Question
from ttbr.emulate.sides import Side
from ttbr.errors import InvalidError
from ttbr.memory import SparseMemory
from ttbr.memory.protocol import Memory
from ttbr.walk import Run, runs

__all__ = ["edges", "probe_registers", "probe_tables"]

# The AT operations that ask about a regime.
OPERATIONS = {
    EL1: ("S1E1R", "S1E1W", "S1E0R", "S1E0W"),
    EL2: ("S1E2R", "S1E2W"),
    EL20: ("S1E2R", "S1E2W"),
    EL3: ("S1E3R", "S1E3W"),
}
HCR_EL2_RW = 1 << 31


MOST = 1 << 14  # addresses; more are asked where there are more runs


def edges(memory: Memory, p: WalkParams, most: int = MOST) -> list[int]:
    """First and last byte of each leaf and the bytes beside them.

    Beyond *most* addresses of half *p*, those of the first and the last leaf of each run only; also
    the ends of the half and the addresses beyond them.
    """
    end = p.base + (1 << p.input_bits)
    found = {p.base, end - 1, *((end,) if not p.upper else (p.base - 1,))}
    for item in runs(memory, p):
        if not isinstance(item, Run):
            continue
        size = item.leaf.size
        inner = range(item.va, item.end, size)
        if len(found) + 2 * len(inner) > most:
            inner = range(item.va, item.va + 1)
        for va in (*inner, item.va + size, item.end - size, item.end):
            found |= {va - 1, va}
    return sorted(va for va in found if 0 <= va < 1 << 64)


def _questions(
    regime: str,
    registers: Mapping[str, int],
    pages: Mapping[int, bytes | bytearray],
    addresses: Iterable[int],
) -> Iterator[Question]:
    if regime not in OPERATIONS:
        raise InvalidError(f"{regime}: only stage 1 is probed with AT")
    asked = list(addresses)
    # Whole pages: a root smaller than that is padded with invalid descriptors.
    memory = {base: bytes(data) for base, data in blocks_of(pages).items()}
    for operation in OPERATIONS[regime]:
        state = {"HCR_EL2": HCR_EL2_RW, **registers}
        yield Question(regime, operation, state, memory, asked)


def probe_tables(
    side: Side, tables: Tables, registers: Mapping[str, int] | None = None, most: int = MOST
) -> Report:
    """Ask *side* about the `edges` of *tables*, under *registers* (default: the tables' own)."""
    report = Report(f"{tables.regime_name} tables", 0)
    found = edges(tables.memory(), tables.params, most)
    given = tables.registers if registers is None else registers
    for question in _questions(tables.regime_name, given, tables.pages(), found):
        compare_one(side, question, report)
    return report


def probe_registers(
    side: Side,
    regime: str,
    registers: Mapping[str, int],
    pages: Mapping[int, bytes | bytearray],
    most: int = MOST,
) -> Report:
    """Ask *side* about the `edges` of each half that *registers* make of the tables in *pages*
    (address to content)."""
    report = Report(f"{regime} registers", 0)
    memory, found = SparseMemory(pages), regime_of(registers, regime, side.target.features)
    halves = [p for p in (found.lower, found.upper) if isinstance(p, WalkParams)]
    asked = sorted({va for p in halves for va in edges(memory, p, most)})
    for question in _questions(regime, registers, pages, asked):
        compare_one(side, question, report)
    return report
