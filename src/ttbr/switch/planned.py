"""The switch of a planned strategy as a `Problem`: its tables, its sequence, what it must reach.

At EL2 the sequence stands in the HYP init page. It is fetched at VA = PA through the ID map and,
from its label ``target`` on, at its run-time address. At the end every run-time region must be
reached as planned. The EL1 sequences stand in the page of `.idmap.text` and change what TTBR0_EL1
and T0SZ are, or TTBR1_EL1; the kernel's half must hold throughout.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ttbr.arch.attributes import PR, PW, PX
from ttbr.boards.board import Board
from ttbr.build import Arena, Attributes, Tables, features_of_params
from ttbr.errors import InvalidError
from ttbr.linux.config import KernelConfig
from ttbr.linux.el1 import El1, el1_tables, kernel_regions
from ttbr.linux.layout import linear_map
from ttbr.linux.realise import Realised, realise, table_base
from ttbr.linux.sequences import Sequence, sequence
from ttbr.linux.strategies import Plan
from ttbr.regions import Region
from ttbr.switch.assembly import Assembly, assemble
from ttbr.switch.interpreter import run
from ttbr.switch.problem import Intent, Options, Problem
from ttbr.switch.program import Code, Layout, Trace

__all__ = [
    "EL1_SEQUENCES",
    "el1_problem",
    "el1_sequence",
    "vhe_start",
    "planned_code",
    "planned_problem",
    "vhe_problem",
]

Memory = Board | Iterable[tuple[int, int]]
HCR_RW, HCR_TGE, HCR_E2H = 1 << 31, 1 << 27, 1 << 34
_LETTERS = {"r": PR, "w": PW, "x": PX}


def planned_code(made: Realised) -> tuple[Code, Assembly]:
    """(the sequence at both of its addresses, the sequence at its physical address)."""
    assert made.plan.sequence is not None
    name = made.plan.strategy.name
    code = assemble(made.plan.sequence.text, made.entry, name)
    if not made.run_offset:
        return code, code
    return Layout(made.entry, ((code, 0), (code, made.run_offset))), code


def _trace(made: Realised) -> Trace:
    """The sequence run to its last exception return, branch or return."""
    sequence = made.plan.sequence
    assert sequence is not None
    code, _ = planned_code(made)
    # A return goes on in the page that called, which is the ID map's.
    registers = {"x30": made.entry, **made.registers}
    registers |= {register: made.values[name] for register, name in sequence.inputs.items()}
    return run(code, registers, sequence.el)


def _intent(region: Region[Attributes], when: str) -> Intent:
    attributes = region.attributes
    mask = sum(bit for letter, bit in _LETTERS.items() if letter in attributes.access)
    return Intent(
        region.va, region.size, region.pa, attributes.memory_byte, mask, when=when, name=region.name
    )


def _intents(plan: Plan) -> tuple[Intent, ...]:
    """The run-time regions at the end, and the code's page at its addresses while it runs."""
    page = plan.config.granule.size
    bits = 64 - plan.run_t0sz
    last = plan.roots[0] if plan.skip is not None else plan.roots[-1]
    found = [_intent(r, "end") for r in last.regions if r.last >> bits == 0]
    start = plan.config.image.hyp & -page
    for va, name in ((start, "HYP ID map"), (plan.runtime & -page, "HYP init page, run time")):
        code = Intent(va, page, start, permissions=PR | PX, name=name)
        if not _covered(found, code):
            found.append(code)
    return tuple(found)


def _covered(intents: Iterable[Intent], code: Intent) -> bool:
    """Whether an intent already says the same of the code's page; `InvalidError` if another."""
    for intent in intents:
        if intent.va < code.end and code.va < intent.end:
            if intent.output(code.va) == code.pa:
                return True
            raise InvalidError(
                f"{intent.name} at {intent.va:#x} maps {code.va:#x} elsewhere than the {code.name}"
            )
    return False


def planned_problem(plan: Plan, options: Options | None = None, base: int | None = None) -> Problem:
    """The proof problem of *plan*, its tables at *base*.

    `InvalidError` where the strategy does not serve or has no tables of its own.
    """
    arena = Arena.at(table_base(plan) if base is None else base, plan.config.granule)
    made = realise(plan, arena)
    trace = _trace(made)
    tables = made.tables[0]
    return Problem(
        tables.memory(),
        tuple((address, len(data)) for address, data in tables.pages().items()),
        made.registers,
        trace.steps,
        _intents(plan),
        Options() if options is None else options,
        target=trace.end.target,
        name=plan.strategy.name,
    )


# EL1 sequence -> what is at TTBR0_EL1 before and after it.
EL1_SEQUENCES = {
    "enable": ("idmap", "idmap"),
    "install-idmap": ("process", "idmap"),
    "uninstall-idmap": ("idmap", "process"),
    "install-ttbr0": ("process", "copy"),
    "replace-ttbr1": ("idmap", "idmap"),
    "replace-ttbr1-by-zero": ("copy", "copy"),
    "resume": ("idmap", "idmap"),
    "kexec": ("idmap", "idmap"),
}


def _after(made: El1, name: str, routine: Sequence) -> Tables:
    """Up to 4.5 the ID map is uninstalled to the reserved table, later to the process."""
    if name == "uninstall-idmap" and "process_ttbr0" not in routine.inputs.values():
        return made.reserved
    return getattr(made, EL1_SEQUENCES[name][1])  # type: ignore[no-any-return]


def _el1_intents(
    made: El1, memory: Memory, name: str, leaves: bool, identity: bool
) -> tuple[Intent, ...]:
    """The kernel's half at the end, and the code's page at VA = PA: reached, or gone."""
    config = made.config
    page, size = config.image.text & -config.granule.size, config.granule.size
    found = []
    if name != "kexec":  # it leaves with the MMU off
        found = [_intent(r, "end") for r in kernel_regions(config, linear_map(config, memory))]
    if leaves:
        found.append(Intent(page, size, None, when="end", name="ID map, uninstalled"))
    elif identity:
        found.append(Intent(page, size, page, permissions=PR | PX, name="ID map"))
    return tuple(found)


def _el1_tables(config: KernelConfig, memory: Memory) -> El1:
    base = -(-config.image.end // (2 << 20)) * (2 << 20)
    return el1_tables(config, memory, Arena.at(base, config.granule))


def el1_sequence(
    name: str, config: KernelConfig, memory: Memory
) -> tuple[El1, Sequence, Tables, Tables]:
    """(tables, routine, what is at TTBR0_EL1 before it, and after it) of EL1 sequence *name*."""
    if name not in EL1_SEQUENCES:
        raise InvalidError(f"sequence {name!r}: must be one of {', '.join(EL1_SEQUENCES)}")
    routine = sequence(name, config.release)
    made = _el1_tables(config, memory)
    return made, routine, getattr(made, EL1_SEQUENCES[name][0]), _after(made, name, routine)


def el1_problem(
    name: str, config: KernelConfig, memory: Memory, options: Options | None = None
) -> Problem:
    """The proof problem of EL1 sequence *name* (one of `EL1_SEQUENCES`) for *config* on a board.

    `InvalidError` for another name, `UnsupportedError` where the release does not have it.
    """
    made, routine, before, after = el1_sequence(name, config, memory)
    registers = made.registers(before) | {"HCR_EL2": HCR_RW}
    if not routine.mmu:
        registers["SCTLR_EL1"] &= ~1
    if name == "enable":  # it writes them all
        registers |= dict.fromkeys(("TTBR0_EL1", "TTBR1_EL1", "TCR_EL1", "MAIR_EL1"), 0)
    leaves = after in (made.process, made.reserved)
    intents = _el1_intents(made, memory, name, leaves, routine.identity)
    return _kernel_problem(
        name, made, routine, registers, made.values(routine, after), intents, options
    )


def vhe_problem(config: KernelConfig, memory: Memory, options: Options | None = None) -> Problem:
    """The proof problem of enter_vhe: the kernel's EL1 tables put to use at EL2.

    It starts after HCR_EL2 was written, with E2H and TGE set and the EL2 MMU off.
    """
    made, routine, registers, values = vhe_start(config, memory)
    intents = _el1_intents(made, memory, "vhe", False, True)
    return _kernel_problem("vhe", made, routine, registers, values, intents, options)


def vhe_start(
    config: KernelConfig, memory: Memory
) -> tuple[El1, Sequence, dict[str, int], dict[str, int]]:
    """(tables, routine, registers at its start, values of its inputs) of enter_vhe."""
    routine = sequence("enter-vhe", config.release)
    made = _el1_tables(config, memory)
    el1 = made.registers(made.idmap)
    hcr = HCR_RW | HCR_TGE | HCR_E2H
    values = {
        "vhe_hcr": hcr,
        "tcr": el1["TCR_EL1"],
        "idmap_ttbr0": el1["TTBR0_EL1"],
        "ttbr1": el1["TTBR1_EL1"],
        "mair": el1["MAIR_EL1"],
        "sctlr": el1["SCTLR_EL1"],
    }
    registers = dict.fromkeys(("TTBR0_EL2", "TTBR1_EL2", "TCR_EL2", "MAIR_EL2"), 0)
    registers |= {"HCR_EL2": hcr, "SCTLR_EL2": el1["SCTLR_EL1"] & ~1}
    return made, routine, registers, values


def _kernel_problem(
    name: str,
    made: El1,
    routine: Sequence,
    registers: dict[str, int],
    values: Mapping[str, int],
    intents: tuple[Intent, ...],
    options: Options | None,
) -> Problem:
    """*routine* in the page of .idmap.text, run on the kernel's tables."""
    entry = made.config.image.text
    code = assemble(routine.text, entry, name)
    start = entry + (0 if routine.identity else made.kimage_offset)
    inputs = {register: values[value] for register, value in routine.inputs.items()}
    trace = run(
        Layout(start, ((code, 0), (code, made.kimage_offset))),
        {"x30": start, **registers, **inputs},
        routine.el,
    )
    chosen = Options() if options is None else options
    if chosen.features is None:
        chosen = replace(chosen, features=features_of_params(made.kernel.params))
    return Problem(
        made.kernel.memory(),
        tuple((address, len(data)) for address, data in made.kernel.pages().items()),
        registers,
        trace.steps,
        intents,
        chosen,
        target=trace.end.target,
        name=name,
    )
