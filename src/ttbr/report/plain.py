"""Answers as plain values (dict, list, str, int, bool) for JSON.

Addresses, descriptors and register values are hexadecimal strings, since JSON numbers lose
precision above 2^53; sizes and levels are numbers.
"""

from collections.abc import Iterable

from ttbr.arch.attributes import SHAREABILITY, memory_text, permission_text
from ttbr.arch.faults import Fault
from ttbr.report.words import leaf_memory
from ttbr.walk.iterate import Run, Unreadable
from ttbr.walk.translate import Leaf, Mapping, Step

__all__ = ["plain_fault", "plain_leaf", "plain_run", "plain_walk"]


def _steps(steps: Iterable[object]) -> list[dict[str, object]]:
    return [
        {
            "stage": s.stage,
            "level": s.level,
            "table": hex(s.table),
            "index": s.index,
            "address": hex(s.address),
            "descriptor": hex(s.descriptor),
            "kind": s.kind,
        }
        for s in steps
        if isinstance(s, Step)
    ]


def plain_fault(fault: Fault) -> dict[str, object]:
    """A fault with its codes."""
    return {
        "fault": fault.kind.value,
        "level": fault.level,
        "stage": fault.stage,
        "s1ptw": fault.s1ptw,
        "ipa": None if fault.ipa is None else hex(fault.ipa),
        "status": fault.status,
        "par": hex(fault.par()),
        "reason": fault.reason,
    }


def plain_leaf(leaf: Leaf) -> dict[str, object]:
    """One stage's leaf."""
    return {
        "level": leaf.level,
        "size": leaf.size,
        "descriptor": hex(leaf.descriptor),
        "permissions": permission_text(leaf.permissions, leaf.params.el0),
        "memory": leaf_memory(leaf),
        "shareability": SHAREABILITY[leaf.shareability],
        "contiguous": leaf.contiguous,
        "not_global": bool(leaf.params.stage == 1 and leaf.descriptor >> 11 & 1),
        "access_flag": bool(leaf.descriptor >> 10 & 1),
        "guarded": bool(leaf.params.stage == 1 and leaf.descriptor >> 50 & 1),
        "dirty_bit_modifier": bool(leaf.descriptor >> 51 & 1),
        "software": leaf.descriptor >> 55 & 0xF,
    }


def plain_walk(answer: object) -> dict[str, object]:
    """One walk: a `Mapping`, a `Fault`, or (IPA, leaf or fault, steps) of stage 2 alone."""
    if isinstance(answer, tuple):
        ipa, found, steps = answer
        body = plain_fault(found) if isinstance(found, Fault) else plain_leaf(found)
        if isinstance(found, Leaf):
            body["pa"] = hex(found.output)
        return {**body, "ipa": hex(ipa), "steps": _steps(steps)}
    if isinstance(answer, Fault):
        return {"va": hex(answer.va), **plain_fault(answer), "steps": _steps(answer.steps)}
    assert isinstance(answer, Mapping)
    el0 = answer.leaf.params.el0 if answer.leaf else True
    return {
        "va": hex(answer.va),
        "pa": hex(answer.pa),
        "ipa": hex(answer.ipa) if answer.leaf2 else None,
        "size": answer.size,
        "permissions": permission_text(answer.permissions, el0),
        "memory": memory_text(answer.attr),
        "shareability": SHAREABILITY[answer.shareability],
        "par": hex(answer.par()),
        "stage1": plain_leaf(answer.leaf) if answer.leaf else None,
        "stage2": plain_leaf(answer.leaf2) if answer.leaf2 else None,
        "steps": _steps(answer.steps),
    }


def plain_run(item: Run | Unreadable) -> dict[str, object]:
    """One line of a listing."""
    if isinstance(item, Unreadable):
        return {
            "va": hex(item.va),
            "size": item.size,
            "level": item.level,
            "table": hex(item.table),
            "unreadable": item.reason,
        }
    body = plain_leaf(item.leaf)
    del body["size"]
    head: dict[str, object] = {"va": hex(item.va), "size": item.size, "pa": hex(item.output)}
    if item.leaf2 is not None:
        head |= {"ipa": hex(item.leaf.output), "stage2": plain_leaf(item.leaf2)}
    return head | {"leaf_size": item.leaf.size} | body
