"""The configuration matrix, the regions of each era, and the linear map."""

from itertools import pairwise

import pytest

from ttbr.arch.geometry import PA, granule
from ttbr.boards.board import Board, Window
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import configure
from ttbr.linux.idmap import Extension, extension
from ttbr.linux.layout import (
    extra_entries,
    kernel_layout,
    linear_map,
    linear_size,
    memstart_align,
    ram_regions,
    shape,
)

GIB = 1 << 30

# page, V, T0SZ, levels, root level, index bits, PGDIR_SHIFT, root entries, root bytes, to 48 bits
MATRIX = """
4K  36 28 3  1 35:30,29:21,20:12                  30 64   512   EXTRA_LEVEL
4K  39 25 3  1 38:30,29:21,20:12                  30 512  4096  EXTRA_LEVEL
4K  42 22 4  0 41:39,38:30,29:21,20:12            39 8    64    WIDER_ROOT
4K  47 17 4  0 46:39,38:30,29:21,20:12            39 256  2048  WIDER_ROOT
4K  48 16 4  0 47:39,38:30,29:21,20:12            39 512  4096  NONE
4K  52 12 5 -1 51:48,47:39,38:30,29:21,20:12      48 16   128   NONE
16K 36 28 2  2 35:25,24:14                        25 2048 16384 TWO_LEVELS
16K 39 25 3  1 38:36,35:25,24:14                  36 8    64    EXTRA_LEVEL
16K 42 22 3  1 41:36,35:25,24:14                  36 64   512   EXTRA_LEVEL
16K 47 17 3  1 46:36,35:25,24:14                  36 2048 16384 EXTRA_LEVEL
16K 48 16 4  0 47:47,46:36,35:25,24:14            47 2    16    NONE
16K 52 12 4  0 51:47,46:36,35:25,24:14            47 32   256   NONE
64K 36 28 2  2 35:29,28:16                        29 128  1024  EXTRA_LEVEL
64K 39 25 2  2 38:29,28:16                        29 1024 8192  EXTRA_LEVEL
64K 42 22 2  2 41:29,28:16                        29 8192 65536 EXTRA_LEVEL
64K 47 17 3  1 46:42,41:29,28:16                  42 32   256   WIDER_ROOT
64K 48 16 3  1 47:42,41:29,28:16                  42 64   512   NONE
64K 52 12 3  1 51:42,41:29,28:16                  42 1024 8192  NONE
"""


@pytest.mark.parametrize("row", MATRIX.strip().splitlines())
def test_matrix(row: str) -> None:
    page, bits, t0sz, levels, root, index, shift, entries, size, to_48 = row.split()
    tables = shape(granule(page), int(bits))
    found = (tables.t0sz, tables.levels, tables.root_level, tables.pgdir_shift)
    assert found == (int(t0sz), int(levels), int(root), int(shift))
    assert ",".join(f"{high}:{low}" for _, high, low in tables.index_bits) == index
    assert [level for level, _, _ in tables.index_bits] == list(range(int(root), 4))
    assert (tables.root_entries, tables.root_bytes) == (int(entries), int(size))
    assert extension(granule(page), int(bits), 48) is Extension[to_48]


@pytest.mark.parametrize(
    ("page", "bits", "more", "kind"),
    [
        ("16K", 36, 47, Extension.EXTRA_LEVEL),
        ("16K", 39, 47, Extension.WIDER_ROOT),
        ("16K", 42, 47, Extension.WIDER_ROOT),
        ("64K", 36, 42, Extension.WIDER_ROOT),
        ("64K", 39, 42, Extension.WIDER_ROOT),
        ("64K", 48, 52, Extension.WIDER_ROOT),
        ("16K", 48, 52, Extension.WIDER_ROOT),
        ("4K", 48, 52, Extension.EXTRA_LEVEL),
        ("4K", 39, 52, Extension.TWO_LEVELS),
        ("4K", 39, 39, Extension.NONE),
    ],
)
def test_other_extensions(page: str, bits: int, more: int, kind: Extension) -> None:
    assert extension(granule(page), bits, more) is kind


@pytest.mark.parametrize(
    ("page", "bits", "shift", "entries"),
    [("4K", 39, 39, 512), ("16K", 36, 36, 4096), ("16K", 47, 47, 2), ("64K", 42, 42, 64)],
)
def test_extra_level(page: str, bits: int, shift: int, entries: int) -> None:
    assert shape(granule(page), bits).extra_shift == shift == bits
    assert extra_entries(configure("4.4", page, bits, 0x80000000)) == entries
    assert extra_entries(configure("6.1", page, bits, 0x80000000)) == granule(page).entries


def test_extra_level_with_52_bits() -> None:
    assert extra_entries(configure("5.4", "64K", 42, 0x80000000, pa_bits=52)) == 1024


@pytest.mark.parametrize(
    ("release", "page_offset", "modules", "kimage", "vmemmap", "fixaddr_top"),
    [
        ("3.18", -(1 << 38), -(1 << 38) - (64 << 20), -(1 << 38), None, -(1 << 38) - 0x4201000),
        ("4.4", -(1 << 38), -(1 << 38) - (64 << 20), -(1 << 38), None, -(1 << 38) - (84 << 20)),
        ("5.3", -(1 << 38), -(1 << 39), -(1 << 39) + (128 << 20), -(1 << 38) - (1 << 32), None),
        ("5.4", -(1 << 39), -(1 << 38) + (128 << 20), -(1 << 38) + (256 << 20), None, None),
        ("6.1", -(1 << 39), -(1 << 38), -(1 << 38) + (128 << 20), -(1 << 33), None),
        ("6.12", -(1 << 39), -(1 << 38), -(1 << 38) + (2 << 30), -(5 << 30), -(8 << 20)),
    ],
)
def test_regions_of_4k_39(
    release: str,
    page_offset: int,
    modules: int,
    kimage: int,
    vmemmap: int | None,
    fixaddr_top: int | None,
) -> None:
    layout = kernel_layout(configure(release, "4K", 39, 0x80080000 & ~0xFFF))
    top = 1 << 64
    assert layout.page_offset == top + page_offset
    assert layout.modules[0] == top + modules
    assert layout.kimage == top + kimage
    assert vmemmap is None or layout.vmemmap[0] == top + vmemmap
    assert fixaddr_top is None or layout.fixaddr_top == top + fixaddr_top


# page, V: log2 of the size of vmemmap is V - 1 less log2 of the page, plus 6 for a struct page.
VMEMMAP_SHIFT = {
    ("4K", 39): 32, ("4K", 48): 41, ("16K", 36): 27, ("16K", 47): 38, ("64K", 42): 31,
    ("64K", 48): 37,
}  # fmt: skip
MIB = 1 << 20
# Release, modules above the middle of the kernel's half and their size in MiB, vmemmap and fixmap
# below the top of the address space: (in sizes of vmemmap, in MiB).
AFTER_THE_FLIP = [
    ("5.4", 128, 128, (1, 2), (1, 24 - 2)),
    ("5.10", 128, 128, (1, 2), (1, 22)),
    ("5.11", 0, 128, (2, 0), (2, 32)),
    ("6.4", 0, 128, (2, 0), (2, 32)),
    ("6.5", 0, 2048, (2, 0), (2, 32)),
    ("6.8", 0, 2048, (2, 0), (2, 32)),
    ("6.9", 0, 2048, (1, 1024), (0, 8)),
    ("6.12", 0, 2048, (1, 1024), (0, 8)),
]


@pytest.mark.parametrize(("page", "bits"), VMEMMAP_SHIFT)
@pytest.mark.parametrize(("release", "start", "size", "vmemmap", "fixmap"), AFTER_THE_FLIP)
def test_regions_after_the_flip(
    release: str,
    start: int,
    size: int,
    vmemmap: tuple[int, int],
    fixmap: tuple[int, int],
    page: str,
    bits: int,
) -> None:
    layout = kernel_layout(configure(release, page, bits, 0x80000000))
    top, window = 1 << 64, 1 << VMEMMAP_SHIFT[page, bits]
    assert layout.page_offset == top - (1 << bits)
    first = top - (1 << (bits - 1)) + start * MIB
    assert layout.modules == (first, first + size * MIB)
    assert layout.kimage == first + size * MIB
    assert layout.vmemmap[0] == top - vmemmap[0] * window - vmemmap[1] * MIB
    assert layout.vmemmap[1] - layout.vmemmap[0] == window
    assert layout.fixaddr_top == top - fixmap[0] * window - fixmap[1] * MIB


@pytest.mark.parametrize(("page", "bits"), VMEMMAP_SHIFT)
@pytest.mark.parametrize("release", ["4.6", "4.7", "5.3"])
def test_regions_before_the_flip(release: str, page: str, bits: int) -> None:
    layout = kernel_layout(configure(release, page, bits, 0x80000000))
    top, window = 1 << 64, 1 << VMEMMAP_SHIFT[page, bits]
    assert layout.page_offset == top - (1 << (bits - 1))
    assert layout.modules == (top - (1 << bits), top - (1 << bits) + 128 * MIB)
    assert layout.kimage == layout.modules[1]
    if release != "4.6":
        assert layout.vmemmap == (layout.page_offset - window, layout.page_offset)
        assert layout.fixaddr_top == layout.vmemmap[0] - 20 * MIB


def test_page_offset_flipped() -> None:
    before, after = (kernel_layout(configure(r, "4K", 39, 0x80080000)) for r in ("5.3", "5.4"))
    assert before.page_offset == 0xFFFFFFC000000000
    assert after.page_offset == 0xFFFFFF8000000000


def test_the_vmemmap_window_was_8_gib() -> None:
    start, end = kernel_layout(configure("4.4", "4K", 39, 0x8000080000)).vmemmap
    assert end - start == 8 * GIB


@pytest.mark.parametrize("release", ["4.4", "4.12", "5.4", "5.15", "6.12"])
@pytest.mark.parametrize(("page", "bits"), [("4K", 39), ("4K", 48), ("64K", 42), ("16K", 47)])
def test_regions_do_not_overlap(release: str, page: str, bits: int) -> None:
    config = configure(release, page, bits, 0x80000000)
    layout = kernel_layout(config)
    regions = sorted(r for r in (layout.linear, layout.modules, layout.vmemmap, layout.pci_io) if r)
    for low, high in pairwise(regions):
        assert low[1] <= high[0], (low, high)
    assert regions[0][0] >= (1 << 64) - (1 << bits)
    assert regions[-1][1] <= 1 << 64


@pytest.mark.parametrize(
    ("release", "vhe", "size"),
    [
        ("5.4", True, 1 << 51),
        ("5.11", False, (1 << 52) - (1 << 47)),
        ("5.15", False, 1 << 51),
        ("5.15", True, (1 << 52) - (1 << 47)),
    ],
)
def test_linear_map_of_52_bits(release: str, vhe: bool, size: int) -> None:
    assert linear_size(configure(release, "64K", 52, 0x80000000, va52=True, vhe=vhe)) == size
    assert linear_size(configure(release, "64K", 52, 0x80000000, vhe=vhe)) == 1 << 47


def test_memstart_alignment() -> None:
    assert memstart_align(configure("5.4", "64K", 42, 0x80000000)) == GIB
    assert memstart_align(configure("5.12", "64K", 42, 0x80000000)) == GIB // 2
    assert memstart_align(configure("5.12", "4K", 39, 0x80000000)) == GIB
    assert memstart_align(configure("5.12", "16K", 47, 0x80000000)) == GIB


def test_the_high_window_wins_if_the_kernel_is_high() -> None:
    memory = [
        (0x80000000, 0x80000000),
        (0x80000000000, 0x80000000),
        (0x80100000000, 0x700000000),
    ]
    config = configure("5.6", "4K", 39, 0x807F6DF0000, image_end=0x807F7400000)
    linear = linear_map(config, memory)
    assert linear.memstart == 0x7C800000000
    assert linear.ram[0][0] == 0x80000000000
    assert linear.ram[-1][1] == 0x807F7400000


def test_what_the_linear_map_cannot_hold_goes() -> None:
    linear = linear_map(configure("5.6", "4K", 39, 0x40200000), [(0x40000000, 1 << 40)])
    assert linear.ram == ((0x40000000, 0x4040000000),)
    assert linear.to_virt(0x40000000) == 0xFFFFFF8000000000
    assert linear.to_phys(linear.to_virt(0x40201000)) == 0x40201000
    assert linear.high_memory == 0xFFFFFFC000000000


def test_memory_below_the_image_was_lost() -> None:
    linear = linear_map(configure("4.4", "4K", 39, 0x80880000), [(0x80000000, GIB)])
    assert linear.memstart == 0x80800000
    assert linear.ram == ((0x80800000, 0xC0000000),)


def test_a_52_bit_kernel_on_a_48_bit_cpu() -> None:
    linear = linear_map(configure("6.12", "4K", 52, 0x40200000), [(0x40000000, GIB)])
    assert linear.first == 0xFFFF000000000000
    # The macro is -2^VA_BITS all the same.
    layout = kernel_layout(configure("6.12", "4K", 52, 0x40200000))
    assert (layout.page_offset, layout.linear[0]) == (0xFFF0000000000000, 0xFFFF000000000000)


def test_memory_beyond_48_bits_needs_lpa2_since_6_14() -> None:
    memory, image = [((1 << 48) - GIB, 2 * GIB)], (1 << 48) - GIB
    for release, va52, end in (("6.13", False, GIB), ("6.14", False, 0), ("6.14", True, GIB)):
        config = configure(release, "4K", 52, image, pa_bits=52, va52=va52)
        assert linear_map(config, memory).ram[-1][1] == (1 << 48) + end


def test_kaslr_lowers_memstart() -> None:
    config, memory = configure("6.1", "4K", 39, 0x8040200000, kaslr=True), [(0x8040000000, GIB)]
    moved = linear_map(config, memory, 2 * GIB)
    assert moved.memstart == 0x8040000000 - 2 * GIB
    assert moved.first == linear_map(config, memory).first + 2 * GIB
    for offset in (12345, 256 * GIB):
        with pytest.raises(InvalidError, match="random offset"):
            linear_map(config, memory, offset)


def test_memory_windows() -> None:
    pairs = [(0x80000000, GIB), (0x40000000, GIB)]
    board = Board("b", "a board", tuple(Window(PA(start), size) for start, size in pairs))
    assert ram_regions(pairs) == ram_regions(board) == ((0x40000000, 0xC0000000),)
    with pytest.raises(InvalidError, match="0x50000000-0x8fffffff overlaps 0x40000000-0x7fffffff"):
        ram_regions([(0x40000000, GIB), (0x50000000, GIB)])
    with pytest.raises(InvalidError, match="not positive"):
        ram_regions([(0x40000000, 0)])
    with pytest.raises(InvalidError, match="has none"):
        ram_regions([])


def test_the_image_must_be_in_memory() -> None:
    with pytest.raises(UnsupportedError, match="not inside one memory window"):
        linear_map(configure("6.1", "4K", 39, 0x200000), [(0x40000000, GIB)])


@pytest.mark.parametrize(
    ("release", "start"),
    [
        ("4.4", 0xFFFFFFBFFAE00000),
        ("4.6", 0xFFFFFFBFFEE00000),
        ("5.3", 0xFFFFFFBEFEE00000),
        ("5.4", 0xFFFFFFFEFEC00000),
        ("6.1", 0xFFFFFFFDFE800000),
        ("6.12", 0xFFFFFFFFC0800000),
    ],
)
def test_pci_io_of_4k_39(release: str, start: int) -> None:
    found = kernel_layout(configure(release, "4K", 39, 0x80080000))
    assert found.pci_io == (start, start + (16 << 20))
