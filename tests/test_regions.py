"""The interval map, against a page-by-page model."""

import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbr.arch.geometry import PA, VA
from ttbr.errors import InvalidError, TtbrError, UnreadableError
from ttbr.regions import Region, RegionMap, format_regions, parse_regions

PAGE = 0x1000


def region(va: int, pa: int, pages: int, attributes: str = "rw", name: str = "") -> Region[str]:
    return Region(VA(va * PAGE), PA(pa * PAGE), pages * PAGE, attributes, name)


# Small page numbers, so that regions touch and overlap often.
REGIONS = st.builds(
    region,
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(1, 6),
    st.sampled_from(["rw", "rx"]),
    st.sampled_from(["", "a", "b"]),
)


def pages_of(regions: list[Region[str]]) -> dict[int, tuple[int, str]]:
    """Page number -> (output page, attributes); KeyError stands for an overlap."""
    pages: dict[int, tuple[int, str]] = {}
    for one in regions:
        for n in range(one.size // PAGE):
            if one.va // PAGE + n in pages:
                raise KeyError(one)
            pages[one.va // PAGE + n] = (one.pa // PAGE + n, one.attributes)
    return pages


@given(st.lists(REGIONS, max_size=12))
def test_map_agrees_with_pages(regions: list[Region[str]]) -> None:
    try:
        pages = pages_of(regions)
    except KeyError:
        with pytest.raises(InvalidError, match="overlaps"):
            RegionMap(regions)
        return
    whole = RegionMap(regions)
    one_by_one: RegionMap[str] = RegionMap()
    for one in regions:
        one_by_one.add(one)
    assert whole == one_by_one
    assert [one.va for one in whole] == sorted(one.va for one in regions)
    for page in range(60):
        found = whole.lookup(page * PAGE + 5)
        assert (found is None) == (page not in pages)
        if found is not None:
            assert pages[page] == (
                (found.pa + page * PAGE - found.va) // PAGE,
                found.attributes,
            )
    merged = whole.merged()
    assert pages_of(list(merged)) == pages
    assert not any(high.continues(low) for low, high in zip(merged, list(merged)[1:], strict=False))
    gaps = [
        page
        for start, size in whole.gaps(0, 60 * PAGE - 1)
        for page in range(start // PAGE, (start + size) // PAGE)
    ]
    assert gaps == [page for page in range(60) if page not in pages]


@given(st.lists(REGIONS, max_size=8), REGIONS)
def test_add_refuses_what_the_constructor_refuses(
    regions: list[Region[str]], extra: Region[str]
) -> None:
    try:
        whole = RegionMap(regions)
    except InvalidError:
        return
    before = list(whole)
    try:
        wanted: RegionMap[str] | None = RegionMap([*regions, extra])
    except InvalidError:
        wanted = None
    if wanted is None:
        with pytest.raises(InvalidError, match="overlaps"):
            whole.add(extra)
        assert list(whole) == before
    else:
        whole.add(extra)
        assert whole == wanted


@given(st.lists(REGIONS, max_size=8), st.lists(REGIONS, max_size=8))
def test_intersections(left: list[Region[str]], right: list[Region[str]]) -> None:
    try:
        one, two = RegionMap(left), RegionMap(right)
    except InvalidError:
        return
    common = pages_of(left).keys() & pages_of(right).keys()
    pairs = list(one.intersections(two))
    assert all((a.va, a.size) == (b.va, b.size) for a, b in pairs)
    assert pages_of([a for a, _ in pairs]) == {page: pages_of(left)[page] for page in common}
    assert pages_of([b for _, b in pairs]) == {page: pages_of(right)[page] for page in common}


@given(st.lists(REGIONS, max_size=8), st.integers(0, 50), st.integers(0, 10))
def test_overlapping(regions: list[Region[str]], first: int, pages: int) -> None:
    try:
        whole = RegionMap(regions)
    except InvalidError:
        return
    low, high = first * PAGE + 7, (first + pages) * PAGE + 9
    wanted = [one for one in whole if one.va <= high and low <= one.last]
    assert whole.overlapping(low, high) == wanted


def test_overlap_names_both_regions_and_their_ranges() -> None:
    text = region(0x10, 0, 4, name="text")
    with pytest.raises(InvalidError) as caught:
        RegionMap([text, region(0x13, 0, 1, name="data")])
    assert str(caught.value) == "region text 0x10000-0x13fff overlaps region data 0x13000-0x13fff"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Region(VA(0x1001), PA(0), PAGE, "rw", "x"), "region x: va 0x1001 is not a multiple"),
        (Region(VA(0), PA(0x800), PAGE, "rw", "x"), "region x: pa 0x800 is not a multiple"),
        (Region(VA(0), PA(0), 0x1800, "rw", "x"), "region x: size 0x1800 is not a multiple"),
        (Region(VA(0), PA(0), 0, "rw", "x"), "region x: size 0"),
        (Region(VA(0), PA(0), -PAGE, "rw", "x"), "region x: size -0x1000"),
        (Region(VA(-PAGE), PA(0), PAGE, "rw"), "region without a name: va -0x1000"),
        (Region(VA(2**64 - PAGE), PA(0), 2 * PAGE, "rw", "x"), "ends above 2^64"),
        (Region(VA(0), PA(2**64 - PAGE), 2 * PAGE, "rw", "x"), "ends above 2^64"),
    ],
)
def test_refused_regions(bad: Region[str], message: str) -> None:
    for put in (lambda: RegionMap([bad]), lambda: RegionMap[str]().add(bad)):
        with pytest.raises(InvalidError) as caught:
            put()
        assert message in str(caught.value)


def test_page_size_decides_alignment() -> None:
    RegionMap([region(4, 4, 4)], page_size=0x4000)
    with pytest.raises(InvalidError, match="0x4000"):
        RegionMap([region(1, 4, 4)], page_size=0x4000)
    with pytest.raises(InvalidError, match="power of two"):
        RegionMap([], page_size=0x3000)


def test_the_last_page_of_the_address_space() -> None:
    top = Region(VA(2**64 - PAGE), PA(0), PAGE, "rw")
    whole = RegionMap([top])
    assert whole.lookup(2**64 - 1) == top
    assert list(whole.gaps(2**64 - 2 * PAGE, 2**64 - 1)) == [(VA(2**64 - 2 * PAGE), PAGE)]
    assert list(RegionMap[str]().gaps(0, 2**64 - 1)) == [(VA(0), 2**64)]


def test_clip_outside_is_refused() -> None:
    with pytest.raises(InvalidError, match="nothing of it"):
        region(1, 1, 1).clip(0x9000, 0x9FFF)


def test_ten_thousand_scattered_regions_are_quick() -> None:
    regions = [region(3 * n * 7919 % 30011 * 8, n, 1) for n in range(10_000)]
    start = time.perf_counter()
    whole = RegionMap(regions)
    for one in regions:
        assert whole.lookup(one.va) is one
    one_by_one: RegionMap[str] = RegionMap()
    for one in regions:
        one_by_one.add(one)
    # About 30 ms; the limit only has to catch a quadratic method.
    assert time.perf_counter() - start < 2


TEXT = """
page = 0x4000
[[region]]
name = "text"
va = 0xffff_8000_0000_0000
pa = 0x4000_0000
size = 0x8000
memory = "normal"
access = "rx"
"""


def keep(row: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(row.items())


def test_parse_regions() -> None:
    whole = parse_regions(TEXT, keep)
    assert whole.page_size == 0x4000
    (one,) = whole
    assert (one.va, one.pa, one.size) == (0xFFFF_8000_0000_0000, 0x4000_0000, 0x8000)
    assert (one.name, one.attributes) == ("text", (("memory", "normal"), ("access", "rx")))


def test_parse_regions_text_that_is_wrong() -> None:
    def refuse(row: Mapping[str, object]) -> str:
        raise InvalidError(f"access {row['access']!r} is not known")

    with pytest.raises(InvalidError) as caught:
        parse_regions(TEXT, refuse, "map.toml")
    assert str(caught.value) == "map.toml: region 1 'text': access 'rx' is not known"
    for text, message in (
        ("[[region]", "map.toml: not TOML"),
        ("x = " + "[" * 1900, "map.toml: not TOML"),
        ("page = true", "map.toml: page must be a whole number"),
        ("region = 1", r"map.toml: regions must be written as \[\[region\]\]"),
        ("regions = 1", "map.toml: 'regions' is neither page nor region"),
        ("[[region]]\nva = 0\npa = 0", "map.toml: region 1: size must be"),
        ("[[region]]\nname = 'a\\nb'\nva = 0.5", "map.toml: region 1 .*: va must be"),
        ('[[region]]\nname = "a\\nb"', "map.toml: region 1: name must be one printable line"),
    ):
        with pytest.raises(UnreadableError, match=message):
            parse_regions(text, keep, "map.toml")
    with pytest.raises(InvalidError, match="page size 0x3 "):
        parse_regions("page = 3", keep, "map.toml")


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)


@given(
    st.lists(st.builds(region, st.integers(0, 40), st.integers(0, 40), st.just(1), NAMES, NAMES))
)
def test_text_round_trip(regions: list[Region[str]]) -> None:
    try:
        whole = RegionMap(regions)
    except InvalidError:
        return
    text = format_regions(whole, lambda access: {"access": access, "count": 3, "yes": True})
    assert parse_regions(text, lambda row: str(row["access"])) == whole


@settings(max_examples=300)
@given(st.text(st.sampled_from("[]region= \n\"'0x_vapasizemorl.{},#\\"), max_size=200))
def test_any_text_gives_a_map_or_an_error(text: str) -> None:
    message = ""
    try:
        parse_regions(text, keep)
    except TtbrError as error:
        message = str(error)
    assert "\n" not in message
