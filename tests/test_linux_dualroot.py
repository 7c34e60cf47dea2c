"""Tables valid under two values of T0SZ, walked under both."""

import random

import pytest

from ttbr.arch.geometry import PA, VA, granule
from ttbr.arch.regime import EL2, Regime, WalkParams
from ttbr.build import Arena, Attributes
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.dualroot import DualRoot, Form, dual_root, exposures
from ttbr.regions import Region
from ttbr.walk import EXECUTE, Mapping, translate

CODE = Attributes(access="rx")
TABLES = 0x90000000


def region(va: int, pa: int, size: int, attributes: Attributes = CODE) -> Region[Attributes]:
    return Region(VA(va), PA(pa), size, attributes, "window")


def make(page: str, a: int, b: int, window: Region[Attributes], idmap: int = 0) -> DualRoot:
    ids = [region(idmap, idmap, granule(page).size)] if idmap else []
    return dual_root(granule(page), a, b, window, arena=Arena.at(TABLES, page), idmap=ids)


def output(dual: DualRoot, p: WalkParams, va: int) -> tuple[int, int] | None:
    """(output address, leaf level) of *va*, or None for a fault."""
    found = translate(dual.tables.memory(), Regime(EL2, True, p, None, 52, False), va, EXECUTE)
    if not isinstance(found, Mapping):
        return None
    assert found.leaf is not None
    return found.pa, found.leaf.level


PAGES = {"4K": 0x1000, "16K": 0x4000, "64K": 0x10000}
# page, T0SZ pair, window VA and PA (page), ID map page, form
FORMS = [
    ("4K", 24, 25, 0x4000001000, 0x8000001000, 0x8000001000, Form.ROOT_SELF),
    ("4K", 16, 25, 0x4000001000, 0x8000001000, 0x8000001000, Form.ROOT_SELF),
    ("4K", 16, 34, 0x401000, 0x8000001000, 0x8000001000, Form.ROOT_SELF),
    ("4K", 25, 34, 0x401000, 0x40001000, 0x40001000, Form.ROOT_SELF),
    ("4K", 24, 25, 0x201000, 0x8000001000, 0x8000001000, Form.CHILD_SELF),
    ("4K", 24, 25, 0x1000, 0x8000001000, 0x8000001000, Form.LAST_BLOCK),
    ("16K", 24, 28, 0x2004000, 0x8000004000, 0x8000004000, Form.ROOT_SELF),
    ("16K", 16, 28, 0x2004000, 0x10000004000, 0x10000004000, Form.ROOT_SELF),
    ("16K", 16, 17, 0x2000004000, 0x800000004000, 0x800000004000, Form.ROOT_SELF),
    ("16K", 16, 17, 0x4000, 0x800000004000, 0x800000004000, Form.LAST_BLOCK),
    ("64K", 20, 22, 0x20010000, 0x80000010000, 0x80000010000, Form.ROOT_SELF),
    ("64K", 21, 22, 0x40010000, 0x40000010000, 0x40000010000, Form.ROOT_SELF),
    ("64K", 16, 22, 0x10000, 0x10010000, 0x80000010000, Form.CHILD_SELF),
    ("64K", 12, 16, 0x10000, 0x10010000, 1 << 48, Form.SAME_LEVEL),
    ("4K", 12, 16, 0x10000001000, 0x10001000, 1 << 48, Form.ROOT_SELF),
]


@pytest.mark.parametrize(("page", "a", "b", "va", "pa", "idmap", "form"), FORMS)
def test_forms(page: str, a: int, b: int, va: int, pa: int, idmap: int, form: Form) -> None:
    dual = make(page, a, b, region(va, pa, PAGES[page]), idmap)
    assert dual.form is form
    assert dual.narrow.root == dual.wide.root
    wide, narrow = (output(dual, p, va + 0x8) for p in (dual.wide, dual.narrow))
    assert wide is not None
    assert narrow is not None
    assert wide[0] == narrow[0] == pa + 8
    assert (wide == narrow) is dual.same_leaf
    assert output(dual, dual.wide, idmap) == (idmap, 3)


@pytest.mark.parametrize(("page", "b", "level"), [("64K", 22, 2), ("16K", 28, 2)])
def test_last_block_where_the_self_reference_serves_too(page: str, b: int, level: int) -> None:
    size, g = PAGES[page], granule(page)
    window = region(size, g.entry_size(2) + size, size)
    dual = dual_root(g, b - 5, b, window, arena=Arena.at(1 << 33, page), form=Form.LAST_BLOCK)
    assert output(dual, dual.wide, size) == (g.entry_size(2) + size, level)
    assert output(dual, dual.narrow, size) == (g.entry_size(2) + size, 3)
    assert output(dual, dual.narrow, 0) is None


def test_linear_window_from_address_0() -> None:
    dual = make("4K", 24, 25, region(0, 0x8000000000, 1 << 30), 0x8000001000)
    assert dual.form is Form.LINEAR_BLOCK
    for va in (0, 0x1FF000, 0x200000, 0x3FFFF000):
        assert output(dual, dual.wide, va) == (0x8000000000 + va, 1)
        assert output(dual, dual.narrow, va) == (0x8000000000 + va, 2)


@pytest.mark.parametrize(
    ("page", "narrow", "wide"),
    [
        ("4K", 39, 40),
        ("4K", 39, 48),
        ("16K", 36, 40),
        ("16K", 36, 48),
        ("16K", 47, 48),
        ("64K", 42, 48),
    ],
)
def test_all_addresses_agree_with_the_root_that_refers_to_itself(
    page: str, narrow: int, wide: int
) -> None:
    rng = random.Random(narrow * 100 + wide)
    g = granule(page)
    first = g.entry_size(4 - -(-(narrow - g.shift) // g.stride))
    regions: list[Region[Attributes]] = []
    at = first
    while at < 1 << narrow and len(regions) < 20:
        at += rng.randrange(0, (1 << narrow) // 40) & -g.size
        size = rng.choice([g.size, 3 * g.size, g.entry_size(2)])
        if at + size >= 1 << narrow:
            break
        regions.append(region(at, rng.randrange(1 << 40) & -g.size, size))
        at += size
    dual = dual_root(
        g, 64 - wide, 64 - narrow, regions[0], arena=Arena.at(1 << 41, g), runtime=regions[1:]
    )
    faults = 0
    for _ in range(2000):
        r = rng.choice(regions)
        va = r.va + rng.randrange(-g.size, r.size + g.size)
        low, high = output(dual, dual.narrow, va), output(dual, dual.wide, va)
        assert low == high
        faults += low is None
    assert 0 < faults < 2000


@pytest.mark.parametrize(
    ("page", "a", "b", "window", "why"),
    [
        ("4K", 24, 25, (1 << 39, 0x1000, 0x1000), "translates 39 bits only"),
        ("4K", 24, 25, (0, 0x8000001000, 0x1000), "1G would start at 0x8000001000"),
        ("4K", 24, 25, (0, 0x8000000000, 0x1000), "must be linear from there for 2M"),
        ("4K", 24, 25, (0x3FFFF000, 0x1000, 0x2000), "lies on both sides of 0x40000000"),
        ("4K", 24, 25, (0x1000, 0x8000003000, 0x1000), "not aligned"),
        ("16K", 16, 17, (0, 0, 1 << 36), "no block at level 1"),
        ("64K", 20, 22, (0, 0, 1 << 29), "no block at level 1|page under one T0SZ and a table"),
        ("4K", 24, 25, (0x8040000000, 0, 0x1000), "translates 39 bits only"),
    ],
)
def test_why_none_exist(page: str, a: int, b: int, window: tuple[int, int, int], why: str) -> None:
    with pytest.raises(UnsupportedError, match=why) as refused:
        make(page, a, b, region(*window))
    assert "\n" not in str(refused.value)


def test_the_id_maps_entry_is_taken() -> None:
    with pytest.raises(UnsupportedError, match="root entry 1 is needed for the ID map"):
        make("4K", 24, 25, region(1 << 30, 0x8000001000, 0x1000), 0x8000001000)


def test_a_form_that_does_not_serve_the_window() -> None:
    with pytest.raises(
        UnsupportedError,
        match=r"not .R\[0\] refers to T and .*, but .R\[0\] refers to R. serves it",
    ):
        dual_root(
            granule("4K"), 24, 25, region(1 << 38, 0, 0x1000),
            arena=Arena.at(TABLES), form=Form.CHILD_SELF,
        )  # fmt: skip


def test_t0sz_must_be_legal() -> None:
    with pytest.raises(InvalidError):
        make("4K", 11, 25, region(1 << 38, 0, 0x1000))


def test_nothing_but_faulting_tables_with_the_largest_t0sz() -> None:
    """RAM at 514 GB, VA_BITS 39, HYP_PAGE_OFFSET 2^38: no junk under 24 and 25."""
    dual = make("4K", 24, 25, region(0x4000001000, 0x8080001000, 0x1000), 0x8080001000)
    assert {found.what for found in exposures(dual)} == {"access flag"}


def test_junk_with_a_smaller_t0sz() -> None:
    dual = make("4K", 16, 25, region(0x4000001000, 0x8080001000, 0x1000), 0x8080001000)
    junk = [found for found in exposures(dual) if found.what == "junk walk"]
    # Entry 256 of the root is in range under T0SZ 16: the code page is read as a level 3 table.
    assert junk
    assert all(found.t0sz == 16 and found.output == 0x8080001000 for found in junk)


def test_literal_low_window_leaves_junk() -> None:
    dual = make("4K", 24, 25, region(0x201000, 0x8080001000, 0x1000), 0x8080001000)
    assert "junk walk" in {found.what for found in exposures(dual)}
