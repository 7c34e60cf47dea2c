"""A walk explained for a person: every descriptor that was read, and what it meant."""

from ttbr.arch.attributes import memory_text, permission_text
from ttbr.arch.descriptors import BLOCK, PAGE, TABLE
from ttbr.arch.faults import Fault
from ttbr.arch.geometry import size_text
from ttbr.arch.regime import Regime
from ttbr.errors import InvalidError
from ttbr.report.words import half_text, leaf_text, shareability_text
from ttbr.walk.translate import Leaf, Mapping, Step

__all__ = ["explain", "explain_stage2"]

# What a table descriptor limits below it: (mask of bits 63:59, word).
_LIMITS = ((63, "NSTable"), (62, "APTable: read-only"), (61, "APTable: no EL0"))
_XN = ((60, "UXNTable"), (59, "PXNTable"))


def _limits(descriptor: int) -> str:
    words = [word for bit, word in (*_LIMITS, *_XN) if descriptor >> bit & 1]
    return f"  [{', '.join(words)}]" if words else ""


def _step_line(step: Step) -> str:
    stage = "S2 " if step.stage == 2 else ""
    where = f"  {stage}L{step.level} {step.table:#x}[{step.index:#x}]"
    at = step.table + step.index * 8
    if at != step.address:
        where += f" (PA {step.address:#x})"
    meaning = step.kind + (
        _limits(step.descriptor) if step.kind == TABLE and step.stage == 1 else ""
    )
    return f"{where} = {step.descriptor:#018x}  {meaning}"


def _leaf_line(leaf: Leaf) -> str:
    kind = PAGE if leaf.level == 3 else BLOCK
    name = "PA" if leaf.params.stage == 2 else "output"
    return f"  {size_text(leaf.size)} {kind}, {name} {leaf.output:#x}: {leaf_text(leaf)}"


def _half(regime: Regime, va: int) -> str:
    if not regime.mmu_on:
        return f"{regime.name}, stage 1 off"
    try:
        return f"{regime.name}, {half_text(regime.half(va))}"
    except InvalidError as error:
        return f"{regime.name}, {error}"


def _fault_lines(fault: Fault) -> list[str]:
    lines = [f"  => {fault}: {fault.reason}"]
    detail = f"  fault status code {fault.status:#04x}, PAR_EL1 {fault.par():#x}"
    if fault.ipa is not None:
        detail += f", IPA {fault.ipa:#x}"
    return [*lines, detail]


def explain(regime: Regime, va: int, answer: Mapping | Fault) -> str:
    """The walk of *va* as text, several lines."""
    lines = [f"{va:#x}: {_half(regime, va)}"]
    lines += [_step_line(step) for step in answer.steps if isinstance(step, Step)]
    if isinstance(answer, Fault):
        return "\n".join(lines + _fault_lines(answer))
    for leaf in (answer.leaf, answer.leaf2):
        if leaf is not None:
            lines.append(_leaf_line(leaf))
    memory = shareability_text(memory_text(answer.attr), answer.shareability)
    el0 = answer.leaf.params.el0 if answer.leaf else True
    through = f" (IPA {answer.ipa:#x})" if answer.leaf2 is not None else ""
    permissions = permission_text(answer.permissions, el0)
    lines.append(f"  => PA {answer.pa:#x}{through}, {permissions} {memory}")
    return "\n".join(lines)


def explain_stage2(ipa: int, found: Leaf | Fault, steps: list[Step]) -> str:
    """A walk of stage 2 alone as text."""
    lines = [f"IPA {ipa:#x}: stage 2", *(_step_line(step) for step in steps)]
    if isinstance(found, Fault):
        return "\n".join(lines + _fault_lines(found))
    return "\n".join([*lines, _leaf_line(found), f"  => PA {found.output:#x}"])
