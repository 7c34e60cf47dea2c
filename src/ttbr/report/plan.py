"""A plan explained as an engineer would: the decision, the numbers, a picture of the VA space."""

from dataclasses import dataclass

from ttbr.arch.geometry import size_text
from ttbr.boards import Board
from ttbr.errors import UnsupportedError
from ttbr.linux.config import KernelConfig, check_placement
from ttbr.linux.history import Defect, defects
from ttbr.linux.hyp import (
    HypLayout,
    Meeting,
    Overlap,
    hyp_layout,
    linear_lsb,
    overlap,
    random_tag_bits,
)
from ttbr.linux.hypspace import private_space
from ttbr.linux.idmap import Extension, IdMap, id_map, written
from ttbr.linux.layout import Layout, LinearMap, Region, kernel_layout, linear_map, shape
from ttbr.linux.realise import Numbers, measure
from ttbr.linux.strategies import Plan, other_rules, plan, plans, shipped
from ttbr.report.board import window_text

__all__ = ["Decision", "comparison", "decide", "explain", "plain"]

WIDTH = 64


@dataclass(frozen=True, slots=True)
class Decision:
    """What a board and a kernel need, and the strategy that gives it.

    `chosen` is the plan of the strategy asked for, or of the one that the release runs with.
    `hyp` and `overlap` are None with VHE, and where the kernel has no KVM: `no_kvm` says why.
    `asked` is whether a strategy was asked for by name.
    """

    board: Board
    config: KernelConfig
    linear: LinearMap
    idmap: IdMap
    hyp: HypLayout | None
    overlap: Overlap | None
    defects: tuple[Defect, ...]
    chosen: Plan
    no_kvm: str = ""
    asked: bool = False

    @property
    def comes_up(self) -> bool:
        """Whether such a kernel comes up, at EL1 and, where it has KVM, at EL2."""
        return not self.idmap.why_not and (self.chosen.applicable or bool(self.no_kvm))

    @property
    def works(self) -> bool:
        """Whether it comes up and no defect was found: one may show later (memory, resume)."""
        return self.comes_up and not self.defects


def decide(board: Board, config: KernelConfig, strategy: str | None = None) -> Decision:
    """Decide for *config* on *board*; `InvalidError` where no kernel can be so."""
    check_placement(config)
    linear = linear_map(config, board)
    hyp, no_kvm = None, ""
    if not config.vhe:
        try:
            hyp = hyp_layout(config, linear)
        except UnsupportedError as error:
            no_kvm = str(error)
    return Decision(
        board,
        config,
        linear,
        id_map(config),
        hyp,
        None if hyp is None else overlap(config, board),
        defects(config, board),
        plan(shipped(config) if strategy is None else strategy, config, board),
        no_kvm,
        strategy is not None,
    )


def _idmap_lines(d: Decision) -> list[str]:
    config, idmap = d.config, d.idmap
    narrow = config.va_bits_min
    lines = []
    if idmap.decided_by is None:
        lines.append(f"T0SZ is always {idmap.t0sz} ({64 - idmap.t0sz} bits)")
    elif idmap.extension is Extension.NONE:
        lines.append(
            f"{idmap.decided_by:#x} is within {narrow} bits: T0SZ {idmap.t0sz}, no extension"
        )
    else:
        lines.append(
            f"{idmap.decided_by:#x} is beyond 2^{narrow} ({size_text(1 << narrow)}): T0SZ "
            f"{idmap.t0sz} ({64 - idmap.t0sz} bits) instead of {64 - narrow}"
        )
    levels = f"{idmap.shape.levels} levels, the walk starts at level {idmap.shape.root_level}"
    # A slot is an index of the level that was added above the tables of VA_BITS.
    index = "slot" if idmap.extension is Extension.EXTRA_LEVEL else "entry"
    lines.append(f"extension: {idmap.extension.value}; {levels}; {index} {idmap.slot} of the root")
    if idmap.why_not:
        found = written(config, idmap.boot)
        if found is not None:
            va, (start, end) = found
            lines.append(f"maps {va:#x}-{va + end - start - 1:#x} to {start:#x}")
        lines.append(idmap.why_not)
    return lines


def _hyp_lines(d: Decision) -> list[str]:
    if d.no_kvm:
        return [f"none: {d.no_kvm}"]
    if d.hyp is None or d.overlap is None:
        return ["the kernel runs at EL2 with TTBR1_EL2: nothing to share"]
    hyp = d.hyp
    lines = [
        f"linear map at EL2: {hyp.first:#x}-{hyp.last:#x}, "
        f"{hyp.hyp_va_bits}-bit tables (T0SZ {hyp.t0sz})",
        f"HYP init page at {hyp.idmap[0]:#x}: {d.overlap.meeting.value}",
    ]
    if d.overlap.ram:
        shown = ", ".join(f"{a:#x}-{b - 1:#x}" for a, b in d.overlap.ram[:3])
        lines.append(f"RAM whose addresses are HYP addresses too: {shown}")
    return lines


def _plan_lines(d: Decision) -> list[str]:
    chosen, strategy = d.chosen, d.chosen.strategy
    if d.no_kvm and not d.asked:
        return ["none: without KVM nothing is mapped at EL2"]
    when = "proposed, never shipped"
    if strategy.shipped is not None:
        when = f"Linux {strategy.shipped[0]} to {strategy.shipped[1]}"
    lines = [f"{strategy.name} ({when}): {strategy.idea}"]
    if not chosen.applicable:
        return [*lines, f"not here: {chosen.why_not}"]
    if rules := other_rules(chosen, d.config.release):
        lines.append(rules)
    numbers = measure(chosen)
    lines.append(_numbers_text(numbers))
    for root in chosen.roots:
        mapped = ", ".join(f"{r.name} {r.va:#x}" for r in root.regions[:4])
        lines.append(f"{root.name}: {root.bits} bits, maps {mapped}")
    lines += [f"needs: {need}" for need in chosen.needs]
    return lines


def _numbers_text(n: Numbers) -> str:
    t0sz = " then ".join(map(str, n.t0sz))
    if not n.tables:
        return f"no tables of its own, {n.levels} levels at run time, T0SZ {t0sz}"
    extra = f"{abs(n.extra_tables)} {'more' if n.extra_tables >= 0 else 'fewer'} than two trees"
    count = f"{n.tables} table{'' if n.tables == 1 else 's'}"
    text = f"{count} ({extra}), {n.levels} levels at run time, T0SZ {t0sz}"
    if n.room is not None:
        text += f", {_size(n.room)} for private mappings"
        text += "" if n.room else " (the first one fails with -ENOMEM)"
    if n.junk:
        text += f", {len(n.junk)} unintended ranges reachable"
    return text


def _size(size: int) -> str:
    """*size* bytes in the units that it has: ``2G+512K``."""
    parts = []
    for unit, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size >> shift:
            parts.append(f"{size >> shift}{unit}")
            size &= (1 << shift) - 1
    return "+".join(parts) or "0B"


def _picture(d: Decision) -> list[str]:
    """The TTBR0_EL2 address space to scale, lowest address left; what is small is one column.

    It ends where neither the ID map nor the linear map has anything above.
    """
    if d.hyp is None:
        return []
    bits = max(d.hyp.last.bit_length(), d.hyp.idmap[0].bit_length())
    row = ["."] * WIDTH

    def column(address: int) -> int:
        return min(address * WIDTH >> bits, WIDTH - 1)

    for index in range(column(d.hyp.first), column(d.hyp.last) + 1):
        row[index] = "H"
    row[column(d.hyp.idmap[0])] = "I" if row[column(d.hyp.idmap[0])] == "." else "X"
    low, high = "0x0", f"{(1 << bits) - 1:#x}"
    middle = f"2^{bits - 1}"
    gap = WIDTH - len(low) - len(middle) - len(high)
    scale = low + " " * (gap // 2) + middle + " " * (gap - gap // 2) + high
    same = "X both in one column  " if "X" in row else ""
    width = max(d.hyp.hyp_va_bits, 64 - d.idmap.t0sz)
    above = f", as is all above up to 2^{width}" if width > bits else ""
    legend = f"I ID map  H HYP addresses of the linear map  {same}. free{above}"
    return ["".join(row), scale, legend]


def _range(region: Region) -> str:
    return f"{region[0]:#x}-{region[1] - 1:#x}"


def explain(d: Decision) -> str:
    """The decision as text."""
    config = d.config
    layout = kernel_layout(config)
    ram = d.board.ram
    more = f" and {len(ram) - 1} more" if len(ram) > 1 else ""
    sections = [
        ("board", [f"{d.board.title}, RAM {window_text(ram[0])}{more}"]),
        (
            "kernel",
            [
                f"Linux {config.release}, {config.granule.name} pages, VA_BITS {config.va_bits}, "
                f"image {config.image.start:#x}-{config.image.end - 1:#x}",
                f"PAGE_OFFSET {layout.page_offset:#x}, memstart {d.linear.memstart:#x}, "
                f"KIMAGE_VADDR {layout.kimage:#x}",
                f"modules {_range(layout.modules)}, vmemmap {_range(layout.vmemmap)}, "
                f"fixmap below {layout.fixaddr_top:#x}",
            ],
        ),
        ("ID map", _idmap_lines(d)),
        ("HYP", _hyp_lines(d)),
        ("VA space", _picture(d)),
        ("strategy", _plan_lines(d)),
        ("defects", [f"{defect.bug.name}: {defect.sentence}" for defect in d.defects]),
    ]
    lines = []
    for title, body in sections:
        for index, text in enumerate(body):
            lines.append(f"{title if index == 0 else '':10}{text}")
    if d.overlap is not None and d.overlap.meeting is Meeting.INTERSECTS:
        lines.append(f"{'kernel':10}says: IDMAP intersecting with HYP VA, unable to continue")
    return "\n".join(lines)


def comparison(board: Board, config: KernelConfig) -> str:
    """All strategies for this board and kernel, one or two lines each."""
    lines = []
    for candidate in plans(config, board):
        name = candidate.strategy.name
        if not candidate.applicable:
            lines.append(f"{name:15} no   {candidate.why_not}")
            continue
        lines.append(f"{name:15} yes  {_numbers_text(measure(candidate))}")
        lines += [f"{'':20} needs {need}" for need in candidate.needs]
    return "\n".join(lines)


def _plain_plan(candidate: Plan) -> dict[str, object]:
    body: dict[str, object] = {
        "strategy": candidate.strategy.name,
        "applicable": candidate.applicable,
        "why_not": candidate.why_not or None,
        "rules": str(candidate.config.release),
    }
    if not candidate.applicable:
        return body
    n = measure(candidate)
    sequence = candidate.sequence
    return body | {
        "tables": n.tables,
        "extra_tables": n.extra_tables,
        "levels": n.levels,
        "t0sz": list(n.t0sz),
        "junk": [
            {
                "t0sz": item.t0sz,
                "va": hex(item.va),
                "size": item.size,
                "what": item.what,
                "output": hex(item.output),
            }
            for item in n.junk
        ],
        "room": n.room,
        "needs": list(candidate.needs),
        "roots": [
            {
                "name": root.name,
                "t0sz": root.t0sz,
                "regions": [
                    {"name": r.name, "va": hex(r.va), "pa": hex(r.pa), "size": r.size}
                    for r in root.regions
                ],
            }
            for root in candidate.roots
        ],
        "sequence": list(sequence.lines) if sequence else None,
        "inputs": dict(sequence.inputs) if sequence else None,
    }


def _plain_layout(d: Decision, layout: Layout) -> dict[str, object]:
    def ends(region: Region) -> dict[str, str]:
        return {"start": hex(region[0]), "last": hex(region[1] - 1)}

    idmap = d.idmap.shape
    return {
        "linear": ends(layout.linear),
        "modules": ends(layout.modules),
        "vmalloc": ends(layout.vmalloc),
        "vmemmap": ends(layout.vmemmap),
        "pci_io": None if layout.pci_io is None else ends(layout.pci_io),
        "fixaddr_top": hex(layout.fixaddr_top),
        "pgdir_shift": shape(d.config.granule, d.config.va_bits).pgdir_shift,
        "idmap_pgdir_shift": idmap.pgdir_shift,
    }


def _plain_hyp(d: Decision, hyp: HypLayout, meeting: Meeting) -> dict[str, object]:
    space = private_space(d.config, hyp)
    random = random_tag_bits(d.config, hyp.va_bits, linear_lsb(d.linear))
    return {
        "first": hex(hyp.first),
        "last": hex(hyp.last),
        "t0sz": hyp.t0sz,
        "va_bits": hyp.va_bits,
        "hyp_va_bits": hyp.hyp_va_bits,
        "mask": hex(hyp.mask),
        "tag": hex(hyp.tag),
        "tag_lsb": hyp.tag_lsb,
        "random_bits": hex(random),
        "private": None if space is None else {"top": hex(space.top), "floor": hex(space.floor)},
        "meeting": meeting.name.lower(),
    }


def plain(d: Decision, compare: bool) -> dict[str, object]:
    """The decision as plain values."""
    layout = kernel_layout(d.config)
    body: dict[str, object] = {
        "board": d.board.name,
        "kernel": {
            "release": str(d.config.release),
            "page": d.config.granule.name,
            "va_bits": d.config.va_bits,
            "page_offset": hex(layout.page_offset),
            "kimage_vaddr": hex(layout.kimage),
            "memstart": hex(d.linear.memstart),
        },
        "layout": _plain_layout(d, layout),
        "idmap": {
            "t0sz": d.idmap.t0sz,
            "extension": d.idmap.extension.value,
            "slot": None if d.idmap.why_not else d.config.image.text >> d.config.va_bits_min,
            "levels": d.idmap.shape.levels,
            "why_not": d.idmap.why_not or None,
        },
        "works": d.comes_up,
        "defects": [{"bug": x.bug.name, "sentence": x.sentence} for x in d.defects],
        "chosen": _plain_plan(d.chosen),
    }
    if d.hyp is not None and d.overlap is not None:
        body["hyp"] = _plain_hyp(d, d.hyp, d.overlap.meeting)
    elif d.no_kvm:
        body["hyp"] = {"none": d.no_kvm}
    if compare:
        body["strategies"] = [_plain_plan(p) for p in plans(d.config, d.board)]
    return body
