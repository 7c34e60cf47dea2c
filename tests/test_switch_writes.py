"""Stored-to descriptors: which maintenance and which order makes a walk see them."""

import pytest

from ttbr.errors import UnsupportedError
from ttbr.memory import SparseMemory
from ttbr.switch.descriptors import TableMemory
from ttbr.switch.writes import MAINTENANCE, Writes

BASE, OLD, NEW, LATER = 0x6000_0000, 0xA3, 0xB3, 0xC3
CACHED, PAST, EITHER = {True}, {False}, {True, False}


def writes() -> Writes:
    content = OLD.to_bytes(8, "little") * 512
    memory = SparseMemory({BASE: bytearray(content)})
    return Writes(TableMemory(memory, ((BASE, 4096),)), 64)


def after(store: set[bool], walks: set[bool], *events: str) -> tuple[int, ...]:
    """What walks may see of one store after *events*: dmb, dsb, isw or a DC."""
    w = writes()
    w.store(BASE, 8, NEW, store)
    for event in events:
        if event == "dmb":
            w.order()
        elif event == "dsb":
            w.order()
            w.complete()
        elif event == "isw":
            w.discard()
        else:
            w.maintain(BASE + 63, MAINTENANCE[event])
    return w.visible(walks)[BASE]


@pytest.mark.parametrize(
    ("store", "walks", "serve"),
    [
        (CACHED, CACHED, {"CVAC", "CVAP", "CVADP", "CIVAC"}),
        (PAST, PAST, {"CVAC", "CVAP", "CVADP", "CIVAC", "IVAC"}),
        (CACHED, PAST, {"CVAC", "CVAP", "CVADP", "CIVAC"}),
        (PAST, CACHED, {"CIVAC", "IVAC"}),
        (EITHER, CACHED, {"CIVAC"}),
        (CACHED, EITHER, {"CVAC", "CVAP", "CVADP", "CIVAC"}),
        (EITHER, EITHER, {"CIVAC"}),
    ],
)
def test_the_direction_of_maintenance(store: set[bool], walks: set[bool], serve: set[str]) -> None:
    """IVAC drops what is in the cache only, also where store and walks agree."""
    for op in MAINTENANCE:
        seen = after(store, walks, "dmb", op, "dsb")
        assert seen == ((NEW,) if op in serve else (OLD, NEW)), op


def test_without_maintenance() -> None:
    assert after(CACHED, CACHED, "dsb") == (NEW,)
    assert after(PAST, PAST, "dsb") == (NEW,)
    assert after(CACHED, PAST, "dsb") == (OLD, NEW)
    assert after(PAST, CACHED, "dsb") == (OLD, NEW)
    assert after(EITHER, CACHED, "dsb") == (OLD, NEW)


def test_maintenance_is_ordered_after_cacheable_stores_only() -> None:
    """D7.5.9: else a DMB or DSB has to be between."""
    assert after(CACHED, PAST, "CVAC", "dsb") == (NEW,)
    assert after(PAST, CACHED, "IVAC", "dsb") == (OLD, NEW)
    assert after(PAST, CACHED, "dsb", "IVAC", "dsb") == (NEW,)
    assert after(PAST, CACHED, "dmb", "IVAC") == (OLD, NEW)  # not complete


def test_an_invalidation_loses_what_is_not_clean() -> None:
    assert after(CACHED, CACHED, "dsb", "IVAC") == (OLD, NEW)
    assert after(CACHED, CACHED, "dsb", "CVAC", "IVAC", "dsb") == (NEW,)
    assert after(CACHED, CACHED, "dsb", "isw", "dsb") == (OLD, NEW)
    assert after(PAST, PAST, "dsb", "isw", "dsb") == (NEW,)


def test_a_dirty_line_may_be_written_over_a_store_past_the_cache() -> None:
    for first, seen in (((), (OLD, NEW)), (("CVAC",), (NEW,))):
        w = writes()
        w.store(BASE + 8, 8, LATER, CACHED)
        for op in first:
            w.maintain(BASE, MAINTENANCE[op])
        w.store(BASE, 8, NEW, PAST)
        w.order()
        w.maintain(BASE, MAINTENANCE["CIVAC"])
        w.complete()
        assert w.visible(CACHED)[BASE] == seen


def test_a_later_store_counts_whatever_became_of_the_first() -> None:
    w = writes()
    w.store(BASE, 8, NEW, CACHED)
    w.maintain(BASE, MAINTENANCE["IVAC"])
    w.store(BASE, 8, LATER, CACHED)
    assert w.visible(CACHED)[BASE] == (OLD, NEW, LATER)
    assert w.ordered(CACHED)[BASE] == (LATER,)
    w.complete()
    assert w.visible(CACHED)[BASE] == (LATER,)
    assert w.visible(PAST)[BASE] == (OLD, NEW, LATER)  # the walks of now count


@pytest.mark.parametrize(("barrier", "mixed"), [(False, True), (True, False)])
def test_halves_of_a_descriptor_become_visible_in_any_order(barrier: bool, mixed: bool) -> None:
    """Two stores of 4 bytes; a DMB between them orders them for a walker too (R_TGRMW, B2.3)."""
    w = writes()
    w.store(BASE, 4, 0x11, CACHED)
    if barrier:
        w.order_stores()
    w.store(BASE + 4, 4, 0x22, CACHED)
    low, high, both = 0x11, OLD | 0x22 << 32, 0x11 | 0x22 << 32
    seen = w.visible(CACHED)[BASE]
    assert seen[0] == OLD
    assert seen[-1] == both
    assert (high in seen) == mixed
    assert low in seen
    w.complete()
    assert w.visible(CACHED)[BASE] == (both,)


def test_parts_of_bytes_in_too_many_orders_are_refused() -> None:
    w = writes()
    for at in range(8):
        w.store(BASE + at, 1, at + 1, CACHED)
    assert len(w.visible(CACHED)[BASE]) == 256
    w.store(BASE, 1, 0x77, CACHED)
    with pytest.raises(UnsupportedError, match="too many orders"):
        w.visible(CACHED)
