"""Words that several texts share: sizes, leaf attributes, permissions."""

from ttbr.arch.attributes import (
    SHAREABILITY,
    memory_text,
    permission_text,
    stage2_memory_text,
)
from ttbr.arch.geometry import size_text
from ttbr.walk.translate import Leaf

__all__ = ["flags", "half_text", "leaf_memory", "leaf_text", "shareability_text"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ttbr.arch.regime import WalkParams


def leaf_memory(leaf: Leaf) -> str:
    """The memory type that one stage's leaf says; of stage 2 it may depend on stage 1."""
    if leaf.params.stage == 2:
        return stage2_memory_text(leaf.descriptor >> 2 & 0xF, leaf.params.fwb)
    return memory_text(leaf.attr)


def shareability_text(memory: str, sh: int) -> str:
    """``Normal WB ISH``: Device memory has no shareability of its own."""
    return memory if memory.startswith("Device") else f"{memory} {SHAREABILITY[sh]}"


def flags(leaf: Leaf) -> list[str]:
    """The single-bit attributes that stand out: AF clear, nG, CONT, DBM, GP."""
    d, p = leaf.descriptor, leaf.params
    words = []
    if not d >> 10 & 1:
        words.append("AF=0")
    if p.stage == 1 and p.el0 and d >> 11 & 1:
        words.append("nG")
    words += [name for bit, name in ((52, "CONT"), (51, "DBM")) if d >> bit & 1]
    if p.stage == 1 and d >> 50 & 1:
        words.append("GP")
    return words


def leaf_text(leaf: Leaf) -> str:
    """``rw-/--- Normal WB ISH nG`` of one stage's leaf."""
    el0 = leaf.params.el0
    permissions = permission_text(leaf.permissions, el0)
    memory = shareability_text(leaf_memory(leaf), leaf.shareability)
    return " ".join([permissions, memory, *flags(leaf)])


def half_text(p: "WalkParams") -> str:
    """``TTBR1_EL1: 4K granule, 39-bit input, root 0x.. (level 1, 512 entries)``."""
    if p.epd:
        return f"{p.name}: walks disabled (EPD=1)"
    if p.start_error:
        return f"{p.name}: {p.start_error}: every walk faults at level 0"
    form = "" if not p.form.wide else f", {p.form.name}"
    entries = "entry" if p.root_entries == 1 else "entries"
    return (
        f"{p.name}: {p.granule.name} granule, {p.input_bits}-bit input, output up to "
        f"{min(p.output_bits, p.form.address_bits)} bits{form}, root {p.root:#x} "
        f"(level {p.start_level}, {p.root_entries} {entries}, {size_text(p.root_size)})"
    )
