"""The table allocator: windows, alignment, pages given back."""

import pytest

from ttbr.arch.regime import EL1
from ttbr.build import Arena, build, table_params
from ttbr.build.attributes import KERNEL_DATA
from ttbr.errors import InvalidError, MemoryFault
from ttbr.regions import Region


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ([], "none is given"),
        ([(0x1000, 0)], "size 0x0"),
        ([(0x1800, 0x1000)], "window 0x1800-0x27ff: not aligned to the 4K page"),
        ([(0x1000, 0x1800)], "not aligned to the 4K page"),
        ([((1 << 52) - 0x1000, 0x2000)], "not in 52 bits"),
        (
            [(0x1000, 0x3000), (0x3000, 0x1000)],
            "window 0x3000-0x3fff overlaps the window at 0x1000",
        ),
    ],
)
def test_windows(windows: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        Arena(windows)


def test_reserve_goes_from_window_to_window() -> None:
    arena = Arena([(0x8000, 0x2000), (0x1000, 0x5000)])
    assert arena.free_pages == 7
    assert arena.reserve(3) == [(0x8000, 2), (0x1000, 1)]
    assert arena.take() == 0x2000
    with pytest.raises(InvalidError, match="4 pages are needed, 3 are left"):
        arena.reserve(4)


def test_take_leaves_what_alignment_skips() -> None:
    arena = Arena([(0x1000, 0x8000)])
    assert arena.take(2, 0x4000) == 0x4000
    assert arena.free_windows == [(0x1000, 0x3000), (0x6000, 0x3000)]
    with pytest.raises(InvalidError, match="none has 4 free pages aligned to 0x1000"):
        arena.take(4)


def test_claim() -> None:
    arena = Arena([(0x1000, 0x4000), (0x8000, 0x1000)])
    arena.claim(0x2080, 0x40)
    assert arena.free_windows == [(0x1000, 0x1000), (0x3000, 0x2000), (0x8000, 0x1000)]
    arena.claim(0x4000, 0x5000)
    assert arena.free_windows == [(0x1000, 0x1000), (0x3000, 0x1000)]


def test_a_page_given_back_is_used_next_and_is_clear() -> None:
    arena = Arena([(0x1000, 0x4000)])
    first, second = arena.new_table(), arena.new_table()
    arena.store(first + 8, 0x703)
    assert arena.load(first + 8) == 0x703
    arena.free(first)
    assert arena.new_table() == first
    assert arena.load(first + 8) == 0
    assert arena.new_table() == second + 0x1000


def test_outside_of_tables() -> None:
    arena = Arena([(0x1000, 0x4000)])
    table = arena.new_table()
    for address in (0, table - 8, table + 0x1000, table + 0xFFC):
        with pytest.raises(MemoryFault, match="no table there"):
            arena.load(address)
        with pytest.raises(MemoryFault):
            arena.store(address, 1)


def test_root_over_other_tables_is_refused() -> None:
    arena = Arena([(0x1000, 0x10000)])
    region = Region(0, 0, 4096, KERNEL_DATA)  # type: ignore[arg-type]
    build([region], table_params(EL1, "4K", 48), arena=arena)
    with pytest.raises(
        InvalidError, match="tables at 0x2000-0x2fff overlap tables at 0x2000-0x4fff"
    ):
        build([region], table_params(EL1, "4K", 48), arena=arena, root=0x2000)
    assert arena.free_windows == [(0x5000, 0xC000)]
