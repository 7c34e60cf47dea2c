"""The tables of a plan: how many there are, where in the board's RAM they go, what they are called.

They are put after the kernel image when nobody says otherwise, and never into it, into reserved RAM
or beside RAM.
"""

import re
from typing import NamedTuple

from ttbr.arch.regime import EL2, WalkParams
from ttbr.boards import Board
from ttbr.build import Arena, Estimate, Root, TableSet, estimate, table_params
from ttbr.errors import InvalidError
from ttbr.linux.dualroot import Form
from ttbr.linux.realise import Realised, realise, table_base, table_format
from ttbr.linux.strategies import Plan

__all__ = ["VALUES", "Part", "arena_of", "parts_of", "set_of"]

VALUES = ("boot_ttbr0", "run_ttbr0", "tcr", "run_tcr", "mair", "sctlr")
"""The register values of `Realised.values`: before the switch and, with ``run_``, after it."""


class Part(NamedTuple):
    """The tables of one root: what they are for, how they are walked, how many they are."""

    name: str
    params: WalkParams
    estimate: Estimate


def parts_of(plan: Plan) -> tuple[Part, ...]:
    """The tables that *plan* needs, counted without building them.

    level-skip is counted from a trial: whether its entries that stand for two levels fit, only its
    tables show. `InvalidError` where the plan has no tables.
    """
    if plan.skip is not None or not plan.roots:
        return _skip_parts(plan, realise(plan, Arena.at(table_base(plan), plan.config.granule)))
    found = []
    for root in plan.roots:
        params = table_params(EL2, plan.config.granule, root.bits, **table_format(plan))
        found.append(Part(root.name, params, estimate(root.regions, params)))
    return tuple(found)


def _skip_parts(plan: Plan, made: Realised) -> tuple[Part, ...]:
    (tables,) = made.tables
    runtime, idmap = plan.roots
    assert tables.estimate is not None
    first = Part(runtime.name, tables.params, tables.estimate)
    wide = table_params(EL2, plan.config.granule, 64 - plan.boot_t0sz, **table_format(plan))
    if plan.skip is Form.SAME_LEVEL or not idmap.regions:
        return (first,)
    return first, Part(idmap.name, wide, estimate(idmap.regions, wide))


def _taken(plan: Plan, board: Board) -> list[tuple[int, int, str]]:
    """What tables must not overwrite, as (start, end, name)."""
    image = plan.config.image
    reserved = [(int(w.start), w.last + 1, f"reserved RAM {w}") for w in board.reserved]
    return [(image.start, image.end, f"the image {image.start:#x}-{image.end - 1:#x}"), *reserved]


def _free(plan: Plan, board: Board) -> list[tuple[int, int]]:
    """The (start, end) of whole free pages of RAM, in order."""
    page = plan.config.granule.size
    pieces = [(int(w.start), min(w.last + 1, 1 << plan.config.pa_bits)) for w in board.ram]
    for low, high, _ in _taken(plan, board):
        cut = [((a, min(b, low)), (max(a, high), b)) for a, b in pieces]
        pieces = [piece for both in cut for piece in both if piece[0] < piece[1]]
    rounded = [(a + page - 1 & -page, b & -page) for a, b in pieces]
    return [(a, b) for a, b in rounded if a < b]


def arena_of(plan: Plan, board: Board, base: int | None, pages: int) -> Arena:
    """Free RAM of *board* for *pages* tables: from *base* upwards, or where there is room.

    `InvalidError` when *base* is not free RAM, or there is too little from there on.
    """
    free = _free(plan, board)
    if base is None:
        start = table_base(plan)
        above = [(max(a, start), b) for a, b in free if b > start]
        windows = above + [(a, min(b, start)) for a, b in free if a < start]
        where = f"the free RAM of {board.name}"
    else:
        windows = [(base, b) for a, b in free if a <= base < b]
        if not windows:
            raise InvalidError(f"tables at {base:#x}: {_why_not(plan, board, base)}")
        where = f"the free RAM from {base:#x} to {windows[0][1] - 1:#x}"
    page = plan.config.granule.size
    room = sum(b - a for a, b in windows) // page
    if room < pages:
        raise InvalidError(f"the plan needs {pages} tables of {page:#x} bytes, {where} has {room}")
    return Arena([(a, b - a) for a, b in windows], plan.config.granule)


def _why_not(plan: Plan, board: Board, base: int) -> str:
    for low, high, name in _taken(plan, board):
        if low <= base < high:
            return f"inside {name}"
    return f"not in the RAM of {board.name} below 2^{plan.config.pa_bits}"


def set_of(made: Realised) -> TableSet:
    """All tables of a plan, each root and the register values under their names.

    A single root is ``root``, several are ``root_<name>``.
    """
    names = ["root"]
    if len(made.tables) > 1:
        names = [f"root_{_identifier(root.name)}" for root in made.plan.roots]
    roots = [
        Root(name, tables.root, tables.params.root_size)
        for name, tables in zip(names, made.tables, strict=True)
    ]
    values = {name: made.values[name] for name in VALUES}
    return TableSet(made.tables[0].arena, tuple(roots), values)


def _identifier(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower().replace("'", ""))
