"""Regions -> tables: plan, give every page its address, write the descriptors."""

import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ttbr.arch.regime import WalkParams
from ttbr.build.arena import Arena
from ttbr.build.attributes import Attributes
from ttbr.build.mair import Mair
from ttbr.build.params import root_alignment
from ttbr.build.plan import Estimate, Piece, Plan, make_plan, root_pages
from ttbr.build.spans import spans_of
from ttbr.build.tables import Tables
from ttbr.errors import InvalidError
from ttbr.memory.segments import Buffer
from ttbr.record import replace
from ttbr.regions import Region

if TYPE_CHECKING:
    from ttbr.build.vector import VectorPlan

__all__ = ["Layout", "build", "estimate", "layout"]

# From so many spans, or so many pages of tables, on NumPy is worth its import.
MANY_SPANS, MANY_PAGES = 200, 128


class Layout:
    """Planned tables whose pages have their addresses; the bytes are made by `fill` or `chunks`."""

    def __init__(
        self, params: WalkParams, plan: "Plan | VectorPlan", mair: Mair, arena: Arena
    ) -> None:
        self.params = params
        self.mair = mair
        self.arena = arena
        self.pieces: list[Piece] = []
        self.estimate: Estimate = plan.estimate
        self._plan = plan

    def fill(self, buffer: Buffer, *, zero: bool = True) -> None:
        """Write all tables, page after page, into *buffer*; *zero*: it may hold anything before."""
        words = memoryview(buffer)[: self.estimate.bytes]
        fills = self._plan.fills(self.pieces)
        if isinstance(fills, list) and self.estimate.total < MANY_PAGES:
            if zero:
                words[:] = bytes(len(words))
            for entry, count, value, step in fills:
                values = range(value, value + count * step, step)
                struct.pack_into(f"<{count}Q", words, 8 * entry, *values)
            return
        from ttbr.build.vector import Fills, fill_entries

        arrays = Fills.of_list(fills) if isinstance(fills, list) else fills
        fill_entries(words, arrays, zero=zero)

    def chunks(self, size: int = 1 << 20) -> Iterator[tuple[int, memoryview]]:
        """(address, bytes) of all tables, at most about *size* bytes at a time.

        The bytes are valid until the next chunk is asked for: one buffer is used again and again.
        """
        from ttbr.build.vector import Fills, fill_entries

        page = self.params.granule.size
        step = max(size // page, 1)
        fills = self._plan.fills(self.pieces)
        arrays = Fills.of_list(fills) if isinstance(fills, list) else fills
        buffer = memoryview(bytearray(step * page))
        for piece in self.pieces:
            for first in range(piece.first, piece.first + piece.pages, step):
                pages = min(step, piece.first + piece.pages - first)
                view = buffer[: pages * page]
                low = first * self.params.granule.entries
                high = low + pages * self.params.granule.entries
                fill_entries(view, arrays.clip(low, high), zero=True)
                yield piece.locate(first), view[: piece.size]


def _planned(
    regions: Iterable[Region[Attributes]], p: WalkParams, mair: Mair
) -> "Plan | VectorPlan":
    spans, styles = spans_of(regions, p, mair)
    if len(spans) < MANY_SPANS:
        return make_plan(spans, styles, p)
    from ttbr.build import vector

    return vector.make_plan(spans, styles, p)


def estimate(
    regions: Iterable[Region[Attributes]], params: WalkParams, mair: Mair | None = None
) -> Estimate:
    """Exactly how many tables and leaves *regions* need, without building them.

    Raises `InvalidError` as `build`, but for what concerns the tables' place.
    """
    mair = mair or Mair.given(params.mair)
    return _planned(regions, params, Mair(mair.value, mair.used, mair.closed)).estimate


def layout(
    regions: Iterable[Region[Attributes]],
    params: WalkParams,
    *,
    base: int | None = None,
    arena: Arena | None = None,
    root: int | None = None,
    budget: int | None = None,
    mair: Mair | None = None,
) -> Layout:
    """Plan *regions* and place the tables, writing nothing; the arguments are those of `build`."""
    if (base is None) == (arena is None):
        raise InvalidError("tables need a base address or an arena, and not both")
    if arena is None:
        assert base is not None
        arena = Arena.at(base, params.granule)
    if arena.granule.shift != params.granule.shift:
        raise InvalidError(
            f"the arena has {arena.granule.name} pages, the tables {params.granule.name}"
        )
    mair = mair or Mair.given(params.mair)
    plan = _planned(regions, params, mair)
    _check_room(plan.estimate, arena, budget)
    saved = list(arena.free_windows)
    try:
        pieces = _place(plan.estimate, params, arena, root)
    except InvalidError:
        arena.free_windows[:] = saved
        raise
    found = Layout(replace(params, root=pieces[0].address), plan, mair, arena)
    found.pieces = pieces
    return found


def _check_room(needed: Estimate, arena: Arena, budget: int | None) -> None:
    if budget is not None and needed.total > budget:
        raise InvalidError(f"the map needs {needed.text()}, the budget is {budget}")
    if needed.total > arena.free_pages + 1:  # the root may have a place of its own
        raise InvalidError(
            f"the map needs {needed.text()}, the table windows have {arena.free_pages} pages"
        )


def _place(needed: Estimate, p: WalkParams, arena: Arena, root: int | None) -> list[Piece]:
    """The pages' addresses: the root, then all others in order of level and address."""
    page, pages = p.granule.size, root_pages(p)
    align, root_size = root_alignment(p), p.root_size
    if root is None:
        root_size = pages * page
        root = arena.take(pages, align)
    else:
        if root < 0 or root & (align - 1):
            raise InvalidError(f"root {root:#x} is not aligned to its size, {align:#x}")
        arena.claim(root, p.root_size)
    pieces = [Piece(0, pages, root, page, root_size)]
    first, carry = pages, 1 << p.form.low_top + 1
    for address, count in arena.reserve(needed.total - pages):
        while count:
            # A progression of table descriptors ends where high address bits change.
            part = min(count, (carry - address % carry) // page)
            pieces.append(Piece(first, part, address, page, part * page))
            first, count, address = first + part, count - part, address + part * page
    for piece in pieces:
        end = piece.address + piece.size
        if end > 1 << p.output_bits:
            raise InvalidError(
                f"tables up to {end - 1:#x} are beyond the {p.output_bits} bits of {p.name}"
            )
    return pieces


def build(
    regions: Iterable[Region[Attributes]],
    params: WalkParams,
    *,
    base: int | None = None,
    arena: Arena | None = None,
    root: int | None = None,
    budget: int | None = None,
    mair: Mair | None = None,
    buffer: Buffer | None = None,
) -> Tables:
    """Tables that map *regions*, and nothing else, with the largest leaves that are legal.

    *params* come from `table_params` (their root is ignored). Tables go from *base* upwards, or
    into *arena*; *root* puts the root alone at an address of its own. *budget* is the largest
    number of tables allowed, *mair* the allocation to share with the other half, *buffer* writable
    memory for the tables of `Estimate.bytes`. Raises `InvalidError` with the region, or with the
    numbers where tables do not fit; nothing is written then.
    """
    placed = layout(regions, params, base=base, arena=arena, root=root, budget=budget, mair=mair)
    size = placed.estimate.bytes
    fresh = buffer is None
    if buffer is None:
        buffer = _fresh(placed.estimate)
    elif len(buffer) < size:
        raise InvalidError(f"the buffer has {len(buffer)} bytes, the tables need {size}")
    for piece in placed.pieces:
        placed.arena.hold(piece.address, piece.size, buffer, piece.first * piece.page_size)
    placed.fill(buffer, zero=not fresh)
    return Tables(placed.params, placed.mair, placed.arena, placed.estimate)


def _fresh(needed: Estimate) -> Buffer:
    """Zero bytes for all tables."""
    if needed.total < MANY_PAGES:
        return bytearray(needed.bytes)
    import numpy as np

    return np.zeros(needed.bytes, np.uint8).data
