"""What the concrete simulator runs, and what it reports.

The simulator is a second opinion on `ttbr.switch`: it shares with it the question (a `Problem` with
its steps and events) and nothing else. `scenario_of` makes plain data of the question.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from concrete_walk import memory_type
from ttbr.switch.problem import A_CTRL, A_DSB, A_IC, Problem
from ttbr.switch.program import Step

__all__ = ["Intended", "Misbehaviour", "Scenario", "scenario_of"]


@dataclass(frozen=True, slots=True)
class Intended:
    """VAs `first` to `last` (included) are meant to reach PAs from `pa` on, as memory type `type`.

    `type` is WB, NC or DEV. With `fault`, a fault of the access is meant too.
    """

    first: int
    last: int
    pa: int
    type: str = "WB"
    fault: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Tables, registers, program, intent and options.

    `words` holds descriptors by PA and `tables` the 4 KB pages that are tables: other words of
    them are 0, and any other memory is not a table. `others` are register files of other PEs that
    run in the same regime with CnP = 1. `unknown` names the registers SCTLR_ELx of the regimes whose
    TLB may hold anything at the start. The strict flags take the stricter reading of the three assumptions.
    """

    name: str
    words: Mapping[int, int]
    tables: frozenset[int]
    registers: Mapping[str, int]
    steps: tuple[Step, ...]
    intent: tuple[Intended, ...]
    unknown: frozenset[str] = frozenset()
    others: tuple[Mapping[str, int], ...] = ()
    bbm: str = "0"
    ets2: bool = False
    ntlbpa: bool = False
    ic_strict: bool = False
    ctrl_sticky: bool = False
    tlbi_strict: bool = False

    def intended(self, va: int) -> Intended:
        """What *va* is meant to reach; a row may leave the tag of a TBI address out."""
        plain = va | 0xFF << 56 if va >> 55 & 1 else va & ~(0xFF << 56)
        for row in self.intent:
            if row.first <= va <= row.last or row.first <= plain <= row.last:
                return row
        raise ValueError(f"{self.name}: no intent for {va:#x}")


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """The first thing that went wrong in a run: its kind, where, and the choices that led there."""

    kind: str
    step: int
    what: str
    log: tuple[str, ...] = field(hash=False)

    def __str__(self) -> str:
        return "\n".join((f"{self.kind} at #{self.step}: {self.what}", *self.log))


def scenario_of(problem: Problem) -> Scenario:
    """The same question for the simulator."""
    words: dict[int, int] = {}
    tables: set[int] = set()
    for start, size in problem.tables:
        tables |= set(range(start & -4096, start + size, 4096))
        content = problem.memory.read(start, size)
        for offset in range(0, size, 8):
            value = int.from_bytes(content[offset : offset + 8], "little")
            if value:
                words[start + offset] = value
    steps = problem.steps
    last = steps[-1]
    if problem.target is not None:
        steps = (*steps, Step(problem.target, last.el, "(next)", "", (), last.hcr))
    options, assumptions = problem.options, problem.options.assumptions
    unknown = frozenset(
        name
        for name in ("SCTLR_EL1", "SCTLR_EL2")
        if problem.unknown_tlb
        or (problem.unknown_tlb is None and not problem.registers.get(name, 0) & 1)
    )
    return Scenario(
        problem.name,
        words,
        frozenset(tables),
        problem.registers,
        steps,
        tuple(
            Intended(i.va, i.va + i.size - 1, i.pa, memory_type(i.attr), i.fault)
            for i in problem.intent
            if i.pa is not None
        ),
        unknown=unknown,
        others=tuple({**problem.registers, **e.registers} for e in problem.environment),
        bbm=options.bbm,
        ets2=options.ets2,
        ntlbpa=options.ntlbpa,
        ic_strict=A_IC not in assumptions,
        ctrl_sticky=A_CTRL not in assumptions,
        tlbi_strict=A_DSB not in assumptions,
    )
