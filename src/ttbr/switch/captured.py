"""A routine of a real kernel on captured tables as a `Problem`.

What the routine is meant to reach is taken from the moment before it: every page that it fetches
from or accesses goes on meaning what it meant then (VA = PA where the MMU was off). What it reaches
only later, such as the kernel's addresses after the ID map, the caller has to say.
"""

from collections.abc import Iterable, Mapping

from ttbr.arch.attributes import PR, PX
from ttbr.arch.regime import Regime, current_regime, regime_of
from ttbr.errors import InvalidError, MemoryFault
from ttbr.memory.segments import Segment, SegmentMemory
from ttbr.switch.interpreter import run
from ttbr.switch.problem import Intent, Options, Problem
from ttbr.switch.program import Code, Load, Step, Store, Trace
from ttbr.walk import Mapping as Translated
from ttbr.walk import translate

__all__ = ["captured_problem"]

PAGE = 4096


class _Seen:
    """Virtual memory as it is at the start: through *intents* first, then the captured tables."""

    def __init__(self, memory: SegmentMemory, regime: Regime, intents: Iterable[Intent]) -> None:
        self.memory, self.regime, self.intents = memory, regime, tuple(intents)

    def mapping(self, va: int) -> Translated | None:
        """What the captured tables map at *va*, if anything."""
        try:
            found = translate(self.memory, self.regime, va)
        except InvalidError:
            return None
        return found if isinstance(found, Translated) else None

    def place(self, va: int) -> int:
        """The physical address of *va*; *va* itself where nothing says one."""
        for intent in self.intents:
            if intent.pa is not None and intent.va <= va < intent.end:
                return intent.pa + va - intent.va
        found = self.mapping(va)
        return va if found is None else found.pa

    def read(self, address: int, size: int) -> bytes:
        if address % PAGE + size > PAGE:
            raise MemoryFault(address, size, "it crosses a page")
        return self.memory.read(self.place(address), size)


def _used(steps: Iterable[Step], target: int | None) -> dict[int, int]:
    """Page -> the permission that its accesses need."""
    pages: dict[int, int] = {}
    for step in steps:
        pages[step.pc & -PAGE] = pages.get(step.pc & -PAGE, PR) | PX
        for event in step.events:
            if isinstance(event, Load | Store):
                for va in (event.va, event.va + event.size - 1):
                    pages.setdefault(va & -PAGE, PR)
    if target is not None:
        pages[target & -PAGE] = pages.get(target & -PAGE, PR) | PX
    return pages


def _intents(seen: _Seen, trace: Trace) -> tuple[Intent, ...]:
    """The caller's intents, and for every other used page what it meant at the start."""
    found = list(seen.intents)
    for page, need in sorted(_used(trace.steps, trace.end.target).items()):
        if any(i.va <= page < i.end for i in seen.intents):
            continue
        mapping = seen.mapping(page)
        if mapping is None:
            raise InvalidError(
                f"{page:#x} is used, and was not mapped when the routine began: say what it is "
                f"meant to reach (--reach {page:#x}=PA)"
            )
        attr = mapping.attr if seen.regime.mmu_on else 0xFF
        found.append(Intent(page, PAGE, mapping.pa & -PAGE, attr, need, name="as at the start"))
    return tuple(found)


def captured_problem(
    code: Code,
    memory: SegmentMemory,
    registers: Mapping[str, int],
    el: int,
    *,
    reach: Iterable[Intent] = (),
    data: Iterable[Segment] = (),
    stop: Iterable[int] = (),
    returns: Iterable[int | str] = (),
    options: Options | None = None,
    unknown_tlb: bool | None = None,
    name: str = "",
) -> Problem:
    """The question whether *code* at exception level *el* is safe on the tables in *memory*.

    *registers* are the system registers, and x0 to x30 and sp, of the moment before it. *reach*
    says what is meant besides what was mapped then; *data* is memory without tables.
    `InvalidError` for a page that is used and was not mapped, `ProgramError` where the code cannot
    be followed.
    """
    system = {name: value for name, value in registers.items() if name.isupper()}
    regime = regime_of(system, current_regime(system, el))
    everything = SegmentMemory([*memory.segments, *data])
    seen = _Seen(everything, regime, reach)
    trace = run(
        code,
        dict(registers),
        el,
        seen,
        stop=tuple(stop),
        returns=tuple(returns),
        place=seen.place,
    )
    return Problem(
        everything,
        tuple((s.address, s.size) for s in memory.segments),
        system,
        trace.steps,
        _intents(seen, trace),
        Options() if options is None else options,
        unknown_tlb=unknown_tlb,
        target=trace.end.target,
        name=name,
    )
