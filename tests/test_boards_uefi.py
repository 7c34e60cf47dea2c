"""The reader of a UEFI memory map in a kernel log, in each form that kernels print."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbr.boards import Board
from ttbr.boards.uefi import ATTRIBUTES, TYPES, looks_like, read
from ttbr.errors import InvalidError, TtbrError, UnreadableError

# A Cavium ThunderX (Linux 4.8), shortened; linux-mm, 5 October 2016, "kernel BUG at
# mm/page_alloc.c:1844!". Its memblock dump in the same message is the expectation below.
THUNDERX = """\
[    0.000000] efi:  ACPI=0xfffff000  ACPI 2.0=0xfffff014  SMBIOS 3.0=0x10ffafcf000
[    0.000000] efi: Processing EFI memory map:
[    0.000000] efi:   0x000001400000-0x00000147ffff [Conventional Memory|   |  |  |  |  |  |  |   |WB|WT|WC|UC]
[    0.000000] efi:   0x000001480000-0x0000024affff [Loader Data        |   |  |  |  |  |  |  |   |WB|WT|WC|UC]
[    0.000000] efi:   0x0000024b0000-0x0000fffecfff [Conventional Memory|   |  |  |  |  |  |  |   |WB|WT|WC|UC]
[    0.000000] efi:   0x0000fffed000-0x0000ffff4fff [ACPI Reclaim Memory|   |  |  |  |  |  |  |   |WB|WT|WC|UC]*
[    0.000000] efi:   0x0000ffff5000-0x0000ffff5fff [ACPI Memory NVS    |   |  |  |  |  |  |  |   |WB|WT|WC|UC]*
[    0.000000] efi:   0x0000ffff6000-0x0000ffffffff [ACPI Reclaim Memory|   |  |  |  |  |  |  |   |WB|WT|WC|UC]*
[    0.000000] efi:   0x000100000000-0x000fffffffff [Conventional Memory|   |  |  |  |  |  |  |   |WB|WT|WC|UC]
[    0.000000] efi:   0x010000400000-0x010ff9e97fff [Boot Data          |   |  |  |  |  |  |  |   |WB|WT|WC|UC]
[    0.000000] efi:   0x010ff9e98000-0x010ff9f20fff [Runtime Data       |RUN|  |  |  |  |  |  |   |WB|WT|WC|UC]*
[    0.000000] efi:   0x010ff9f21000-0x010fffffffff [Boot Code          |   |  |  |  |  |  |  |   |WB|WT|WC|UC]
[    0.000000] efi:   0x804000001000-0x804000001fff [Memory Mapped I/O  |RUN|  |  |  |  |  |  |   |  |  |  |UC]
[    0.000000] efi:   0x87e0d0001000-0x87e0d0001fff [Memory Mapped I/O  |RUN|  |  |  |  |  |  |   |  |  |  |UC]
"""


def spans(board: Board, kind: str) -> list[tuple[int, int]]:
    return [(w.start, w.last) for w in getattr(board, kind)]


def test_thunderx_gives_the_memblock_of_the_kernel() -> None:
    board = read(THUNDERX, "thunderx", "log")
    # memory[0x0] to memory[0x8] of the same log, joined.
    assert spans(board, "ram") == [
        (0x140_0000, 0xF_FFFF_FFFF),
        (0x100_0040_0000, 0x10F_FFFF_FFFF),
    ]
    # The lines with an asterisk.
    assert spans(board, "reserved") == [
        (0xFFFE_D000, 0xFFFF_4FFF),
        (0xFFFF_5000, 0xFFFF_5FFF),
        (0xFFFF_6000, 0xFFFF_FFFF),
        (0x10F_F9E9_8000, 0x10F_F9F2_0FFF),
    ]
    assert spans(board, "mmio") == [
        (0x8040_0000_1000, 0x8040_0000_1FFF),
        (0x87E0_D000_1000, 0x87E0_D000_1FFF),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "[    0.000000] efi: mem00: [Conventional Memory|   |  |  |  |   |WB|WT|WC|UC]"
        " range=[0x0000000080000000-0x0000000080000fff] (0MB)",
        "[    0.000000] efi: mem00: [Conventional Memory|   |  |  |  |   |WB|WT|WC|UC]"
        " range=[0x0000000080000000-0x0000000080001000) (0MB)",
        "efi: mem00: type=7, attr=0xf, range=[0x0000000080000000-0x0000000080001000) (0MB)",
        "efi: mem00: [Conventional|attr=0x000000000400000f]"
        " range=[0x0000000080000000-0x0000000080000fff] (4KB)",
        "[    0.000000][    T0] efi:   0x000080000000-0x000080000fff"
        " [Conventional|   |  |  |  |  |  |  |  |  |   |WB|WT|WC|UC]",
        "> efi:   0x000080000000-0x000080000fff [Conventional|   |  |  |  |  |   |WB|  |  |  ]\r",
        "[    0.000000]   0x000080000000-0x000080000fff [Conventional Memory|  |  |WB|WT|WC|UC]",
    ],
)
def test_every_form_of_a_line(line: str) -> None:
    assert looks_like(f"booting\n{line}\n")
    board = read(f"booting\n{line}\n", "b", "log")
    assert spans(board, "memory") == [(0x8000_0000, 0x8000_0FFF)]
    assert (board.reserved, board.mmio) == ((), ())


def one(kind: str, attributes: str) -> Board:
    return read(f"efi:   0x000080000000-0x000080000fff [{kind}|{attributes}]", "b", "log")


@pytest.mark.parametrize(
    ("kind", "attributes", "kinds"),
    [
        ("Conventional", "   |WB|WT|WC|UC", ["memory"]),
        ("Conventional", "   |  |WT|WC|UC", ["memory", "reserved"]),
        ("Conventional", "   |SP|WB|WT|WC|UC", ["memory", "reserved"]),
        ("Conventional", "   |  |  |  |UC", ["reserved"]),
        ("Persistent", "   |NV|WB|  |  |  ", ["memory"]),
        ("Unaccepted", "   |WB|  |  |  ", ["memory", "reserved"]),
        ("Runtime Code", "RUN|WB|WT|WC|UC", ["memory", "reserved"]),
        ("Reserved", "   |WB|WT|WC|UC", ["memory", "reserved"]),
        ("Reserved", "   |  |  |  |UC", ["reserved"]),
        ("ACPI Mem NVS", "   |WB|WT|WC|UC", ["memory", "reserved"]),
        ("MMIO", "RUN|  |  |  |UC", ["mmio"]),
        ("MMIO", "RUN|WB|  |  |UC", ["mmio"]),
        ("MMIO Port", "   |  |  |  |UC", ["mmio"]),
    ],
)
def test_what_a_type_and_its_attributes_mean(kind: str, attributes: str, kinds: list[str]) -> None:
    board = one(kind, attributes)
    assert [k for k in ("memory", "reserved", "mmio") if getattr(board, k)] == kinds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no map here", "log: no UEFI memory map, boot the kernel with efi=debug"),
        ("efi: mem01: type=7, attr=0xf, range=[0x0-0x1000)", "line 1: mem01 follows, mem00 is"),
        ("efi: mem00: something", "line 1: 'mem00: something' is not a descriptor"),
        ("efi: mem00: type=16, attr=0xf, range=[0x0-0x1000)", "memory type 16 is not known"),
        ("efi: mem00: type=7, attr=0xf, range=[0x1000-0x1000)", "is not a range"),
        ("efi:   0x000000001000-0x000000000fff [Boot Code|WB]", "is not a range"),
        ("efi:   0x000000001000-0x000000001fff [Chocolate|WB]", "memory type 'Chocolate' is not"),
        ("efi:   0x000000001000-0x000000001fff [Conventional", "is not a descriptor"),
    ],
)
def test_refused_logs(text: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        read(text, "b", "log")


def test_overlapping_ram_is_refused() -> None:
    line = "efi:   0x000080000000-0x000080000fff [Conventional|WB]\n"
    with pytest.raises(InvalidError, match=r"log: RAM Conventional Memory .* overlaps"):
        read(line * 2, "b", "log")


DESCRIPTORS = st.lists(
    st.tuples(st.integers(0, 15), st.sets(st.sampled_from(sorted(ATTRIBUTES))), st.integers(1, 9)),
    min_size=1,
    max_size=10,
)


@given(DESCRIPTORS, st.booleans())
def test_numbers_and_names_mean_the_same(
    rows: list[tuple[int, set[str], int]], short: bool
) -> None:
    named, numbered, at = [], [], 0x10_0000
    for n, (kind, marks, pages) in enumerate(rows):
        end = at + pages * 0x1000
        label = TYPES[kind][-1 if short else 0]
        word = sum(ATTRIBUTES[mark] for mark in marks)
        named.append(f"efi:   {at:#014x}-{end - 1:#014x} [{label:13}|{'|'.join(sorted(marks))}]")
        numbered.append(f"efi: mem{n:02}: type={kind}, attr={word:#x}, range=[{at:#x}-{end:#x})")
        at = end
    one, two = (read("\n".join(lines), "b", "log") for lines in (named, numbered))
    assert one == two


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("efi: mem0123456789[]()-x|=,\nWBUC"), max_size=200),
    st.integers(0, len(THUNDERX)),
)
def test_any_text(text: str, at: int) -> None:
    for log in (text, THUNDERX[:at] + text + THUNDERX[at:], THUNDERX[:at] + text):
        message = ""
        try:
            read(log, "b", "log")
        except TtbrError as error:
            message = str(error)
        assert "\n" not in message
