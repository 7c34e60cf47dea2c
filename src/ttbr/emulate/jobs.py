"""Jobs from what the rest of the library makes: assembly text, a strategy's plan, EL1 tables."""

from collections.abc import Mapping

from ttbr.build import Tables
from ttbr.emulate import encode
from ttbr.emulate.assembler import machine_code
from ttbr.emulate.run import Job
from ttbr.emulate.unicorn_at import PSTATE
from ttbr.errors import InvalidError
from ttbr.linux.el1 import El1
from ttbr.linux.realise import Realised
from ttbr.linux.sequences import Sequence
from ttbr.switch.assembly import assemble
from ttbr.switch.operands import Register

__all__ = ["el1_job", "plan_job", "text_job"]

NOP = encode.NOP.to_bytes(4, "little")


def text_job(
    name: str,
    text: str,
    at: int,
    memory: Mapping[int, bytes],
    registers: Mapping[str, int],
    el: int,
    *,
    start: int | None = None,
    offset: int = 0,
) -> Job:
    """Assembly *text* at the physical address *at*, run from VA *start* (*at* unless given).

    Its end is a NOP behind it: where the code falls through, returns (``ret``, ``eret`` to the same
    exception level) or, with a ``br`` as the last instruction, branches to. *offset* is by how much
    the end is seen above its physical address.
    """
    code = assemble(text, at, name)
    image = machine_code(code)
    registers = dict(registers)
    until = at + len(image) + offset
    last = code.instructions[max(code.instructions)]
    if last.mnemonic == "eret":
        registers |= {f"ELR_EL{el}": until, f"SPSR_EL{el}": PSTATE[el]}
    elif last.mnemonic == "ret":
        registers["x30"] = until
    elif last.mnemonic == "br":
        target = last.operands[0]
        assert isinstance(target, Register)
        until = registers.get(f"x{target.number}", until)
    return Job(name, _with_code(memory, at, image + NOP), registers, el, start or at, until)


def _with_code(memory: Mapping[int, bytes], at: int, image: bytes) -> dict[int, bytes]:
    """*memory* with *image* at *at*, in a piece that is there or as one more."""
    pieces = dict(memory)
    for address, data in memory.items():
        if address <= at and at + len(image) <= address + len(data):
            here = at - address
            pieces[address] = data[:here] + image + data[here + len(image) :]
            return pieces
        if at < address + len(data) and address < at + len(image):
            raise InvalidError(f"code at {at:#x} lies over the memory at {address:#x}")
    return pieces | {at: image}


def plan_job(made: Realised) -> Job:
    """The switch sequence of a plan at EL2, on its tables, up to the first run-time instruction."""
    plan = made.plan
    assert plan.sequence is not None
    inputs = {x: made.values[value] for x, value in plan.sequence.inputs.items()}
    return text_job(
        f"{plan.strategy.name} {plan.config.release}",
        plan.sequence.text,
        made.entry,
        made.tables[0].pages(),
        made.registers | inputs,
        plan.sequence.el,
        offset=made.run_offset,
    )


def el1_job(name: str, el1: El1, routine: Sequence, before: Tables, after: Tables) -> Job:
    """An EL1 *routine* with *before* at TTBR0_EL1 when it starts and *after* when it is through."""
    registers = el1.registers(before)
    if not routine.mmu:
        registers["SCTLR_EL1"] &= ~1
    values = el1.values(routine, after)
    entry = el1.config.image.text
    offset = 0 if routine.identity else el1.kimage_offset
    return text_job(
        f"{name} {el1.config.release}",
        routine.text,
        entry,
        el1.kernel.pages(),
        registers | {x: values[value] for x, value in routine.inputs.items()},
        routine.el,
        start=entry + offset,
        offset=offset,
    )
