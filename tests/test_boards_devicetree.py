"""Boards from device trees: sources compiled by dtc, captured trees, and hostile ones."""

import os
import re
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from test_boards_fdt import END, blob, node, prop
from ttbr.boards import Board, load
from ttbr.boards.devicetree import read
from ttbr.errors import InvalidError, UnreadableError

CAPTURES = Path(
    os.environ.get("TTBR_CAPTURES", Path(__file__).parents[1] / "../shared/captures")
).resolve()
BLOBS = sorted(CAPTURES.glob("*/guest.dtb"))


def compiled(source: str) -> Board:
    """The board in the device tree *source*, compiled by dtc; warnings are not ours to mind."""
    if not shutil.which("dtc"):
        pytest.skip("no dtc: apt-get install device-tree-compiler")
    done = subprocess.run(
        ["dtc", "-q", "-f", "-I", "dts", "-O", "dtb"],
        input=b"/dts-v1/;\n" + source.encode(),
        capture_output=True,
        check=True,
    )
    return read(done.stdout, "t", "t.dtb")


def cells(address: int, size: int) -> str:
    return f"#address-cells = <{address}>; #size-cells = <{size}>;"


def spans(board: Board, kind: str = "mmio") -> list[tuple[str, int, int]]:
    return [(w.name, w.start, w.size) for w in getattr(board, kind)]


MEMORY = 'memory@80000000 { device_type = "memory"; reg = <0 0x80000000 0 0x10000000>; };'


def root(body: str, memory: str = MEMORY) -> Board:
    return compiled(f'/ {{ model = "Some Board"; {cells(2, 2)} {memory} {body} }};')


@pytest.mark.skipif(not BLOBS, reason="no captures")
@pytest.mark.parametrize("file", BLOBS, ids=lambda file: file.parent.name)
def test_captured_tree_agrees_with_the_kernel(file: Path) -> None:
    board = load(file)
    seen_by_kernel = load(file.with_name("iomem.txt"))
    assert [(w.start, w.size) for w in board.ram] == [(w.start, w.size) for w in seen_by_kernel.ram]
    # Every device that the kernel claimed by its node's name is in the tree at the same place.
    claimed = [w for w in seen_by_kernel.mmio if "@" in w.name]
    assert claimed
    for window in claimed:
        assert (window.name, window.start, window.size) in spans(board)
    gic = {w.start: w.size for w in board.mmio if w.name.startswith("intc@")}
    named = [w for w in seen_by_kernel.mmio if w.name in ("GICD", "GICR")]
    assert {w.start: w.size for w in named} == gic


@pytest.mark.skipif(not BLOBS, reason="no captures")
@pytest.mark.parametrize("file", BLOBS, ids=lambda file: file.parent.name)
def test_captured_tree_agrees_with_dtc(file: Path) -> None:
    if not shutil.which("dtc"):
        pytest.skip("no dtc: apt-get install device-tree-compiler")
    text = subprocess.run(
        ["dtc", "-q", "-I", "dtb", "-O", "dts", str(file)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Nodes directly below the root, whose cells are 2 and 2 in these trees.
    wanted = []
    for name, body in re.findall(r"^\t(\S+@\S+) \{\n(.*?)^\t\};", text, re.M | re.S):
        found = re.search(r"^\t\treg = <(.*)>;", body, re.M)
        if found:
            numbers = [int(cell, 16) for cell in found[1].split()]
            assert len(numbers) % 4 == 0
            for a, b, c, d in zip(*[iter(numbers)] * 4, strict=True):
                wanted.append((name, a << 32 | b, c << 32 | d))
    board = load(file)
    top = {name for name, _, _ in wanted}
    ours = [span for span in (*spans(board), *spans(board, "memory")) if span[0] in top]
    assert sorted(wanted) == sorted(ours)


def test_memory_with_several_regs_and_nodes() -> None:
    board = root(
        """
        memory@0 { device_type = "memory";
          reg = <0 0 0 0x1000>, <0x80 0 1 0>, <0 0x1000 0 0x1000>; };
        """
    )
    assert spans(board, "memory") == [
        ("memory@0", 0, 0x1000),
        ("memory@0", 0x1000, 0x1000),
        ("memory@80000000", 0x8000_0000, 0x1000_0000),
        ("memory@0", 0x80_0000_0000, 0x1_0000_0000),
    ]
    assert spans(board, "ram")[0] == ("memory@0", 0, 0x2000)


@pytest.mark.parametrize(
    ("memory", "starts", "note"),
    [
        (MEMORY.replace("reg", 'status = "okay"; reg'), [0x8000_0000], ""),
        (MEMORY.replace("reg", 'status = "ok"; reg'), [0x8000_0000], ""),
        (MEMORY.replace("reg", 'status = "disabled"; reg'), [], "status is not okay"),
        (MEMORY.replace("reg", 'status = "fail-ecc"; reg'), [], "status is not okay"),
        (MEMORY.replace("reg", "hotpluggable; reg"), [0x8000_0000], "may be unplugged"),
        (MEMORY.replace('device_type = "memory";', ""), [], "Linux ignores it"),
        (MEMORY.replace("0x10000000", "0"), [], "window of size 0 is left out"),
        (MEMORY.replace("reg", "ddr"), [], "no RAM"),
        (
            MEMORY.replace("reg", "linux,usable-memory = <0 0x88000000 0 0x1000>; reg"),
            [0x8800_0000],
            "",
        ),
    ],
)
def test_memory_that_counts(memory: str, starts: list[int], note: str) -> None:
    board = root("", memory)
    assert [w.start for w in board.memory] == starts
    assert bool(starts) != any("no RAM" in one for one in board.notes)
    if note:
        assert any(note in one for one in board.notes)


def test_memory_below_a_bus_is_left_out_with_a_note() -> None:
    board = root(f"soc {{ {cells(2, 2)} ranges; {MEMORY.replace('0x8', '0x9')} }};")
    assert [w.start for w in board.memory] == [0x8000_0000]
    assert board.mmio == ()
    assert board.notes == ("memory@80000000 is left out: RAM that is no child of the root",)


def test_memory_by_another_name() -> None:
    board = root("", MEMORY.replace("memory@80000000", "ddr@80000000"))
    assert spans(board, "memory") == [("ddr@80000000", 0x8000_0000, 0x1000_0000)]
    assert (board.mmio, board.notes) == ((), ())


def test_crash_kernel_range_is_noted() -> None:
    board = root("chosen { linux,usable-memory-range = <0 0x88000000 0 0x1000>; };")
    assert board.notes == ("chosen limits the kernel to its linux,usable-memory-range",)


def test_no_memory_node_is_no_device() -> None:
    assert spans(root("", MEMORY.replace('device_type = "memory";', ""))) == []


def test_overlapping_memory_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        root('memory@8f000000 { device_type = "memory"; reg = <0 0x8f000000 0 0x2000000>; };')
    assert str(caught.value) == (
        "t.dtb: RAM memory@80000000 0x80000000-0x8fffffff"
        " overlaps RAM memory@8f000000 0x8f000000-0x90ffffff"
    )


@pytest.mark.parametrize(
    ("reg", "message"),
    [
        ("<0 0x80000000 0>", "12 bytes are no rows of 2 \\+ 2 cells"),
        ("<0xffffffff 0xfffff000 0 0x1001>", "ends above 2\\^64"),
        ("[00 80]", "2 bytes are no rows"),
    ],
)
def test_memory_that_does_not_read(reg: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=f"^t.dtb: offset 0x[0-9a-f]+: reg of m.*{message}"):
        root("", f'memory@0 {{ device_type = "memory"; reg = {reg}; }};')


def test_the_last_byte_of_the_address_space() -> None:
    board = root(
        "", 'memory@0 { device_type = "memory"; reg = <0xffffffff 0xfffff000 0 0x1000>; };'
    )
    assert board.memory[0].last == 2**64 - 1


@pytest.mark.parametrize("missing", ["#address-cells", "#size-cells"])
def test_root_without_cells_is_refused(missing: str) -> None:
    body = cells(2, 2).replace(missing, "nothing")
    with pytest.raises(UnreadableError, match=f"the root node has no {missing}"):
        compiled(f"/ {{ {body} {MEMORY} }};")


@pytest.mark.parametrize("value", ["<5>", "<0xffffffff>", "<1 1>", "[01]"])
def test_cells_that_are_no_count(value: str) -> None:
    with pytest.raises(UnreadableError, match="#size-cells of / is not 0 to 4"):
        compiled(f"/ {{ #address-cells = <1>; #size-cells = {value}; }};")


def test_one_cell_and_three_cell_roots() -> None:
    small = compiled(
        f'/ {{ {cells(1, 1)} memory@0 {{ device_type = "memory"; reg = <16 32>; }}; }};'
    )
    assert spans(small, "memory") == [("memory@0", 16, 32)]
    wide = f'/ {{ {cells(3, 1)} memory@0 {{ device_type = "memory"; reg = <%d 0 16 32>; }}; }};'
    assert spans(compiled(wide % 0), "memory") == [("memory@0", 16, 32)]
    with pytest.raises(UnreadableError, match="start 0x10000000000000010"):
        compiled(wide % 1)


def test_reserved_memory() -> None:
    done = compiled(
        f"""
        /memreserve/ 0x81000000 0x1000;
        / {{ {cells(2, 2)} {MEMORY}
          reserved-memory {{ {cells(1, 1)} ranges;
            secure@82000000 {{ no-map; reg = <0x82000000 0x1000>, <0x83000000 0x2000>; }};
            pool {{ size = <0x1000>; alignment = <0x1000>; }};
            off@84000000 {{ status = "disabled"; reg = <0x84000000 0x1000>; }};
          }};
        }};
        """
    )
    assert spans(done, "reserved") == [
        ("memory reservation", 0x8100_0000, 0x1000),
        ("secure@82000000", 0x8200_0000, 0x1000),
        ("secure@82000000", 0x8300_0000, 0x2000),
    ]
    assert done.notes == (
        "reserved-memory has no ranges or not the root's cells: Linux ignores it",
        "pool: reserved at an address chosen while booting",
    )
    assert done.mmio == ()


def test_ranges_missing_empty_and_translated() -> None:
    board = root(
        f"""
        none {{ {cells(1, 1)} a@0 {{ reg = <0 1>; }}; }};
        empty {{ {cells(2, 2)} ranges; b@100 {{ reg = <0x80 0x100 0 1>; }}; }};
        moved {{ {cells(1, 1)} ranges = <0x1000 0x10 0x80000000 0x1000>, <0x4000 0 0x500 0x100>;
          c@1010 {{ reg = <0x1010 0x20>, <0x4000 0x100>; }};
          outside@3000 {{ reg = <0x3000 0x10>; }};
          across@1ff0 {{ reg = <0x1ff0 0x20>; }};
          inner {{ {cells(1, 1)} ranges = <0 0x1800 0x100>;
            d@10 {{ reg = <0x10 0x8>; }};
            deeper {{ e@0 {{ reg = <0 8>; }}; }};
          }};
        }};
        """
    )
    assert spans(board) == [
        ("c@1010", 0x500, 0x100),
        ("c@1010", 0x10_8000_0010, 0x20),
        ("d@10", 0x10_8000_0810, 8),
        ("b@100", 0x80_0000_0100, 1),
    ]
    assert board.notes == (
        "outside@3000: 0x3000, size 0x10, is in no ranges, left out",
        "across@1ff0: 0x1ff0, size 0x20, is in no ranges, left out",
    )


def test_cells_are_inherited_as_linux_does() -> None:
    board = root("bus { ranges; a@0 { reg = <1 2 3 4>; }; };")
    assert spans(board) == [("a@0", 0x1_0000_0002, 0x3_0000_0004)]


def test_pci_host() -> None:
    board = root(
        f"""
        soc {{ {cells(1, 1)} ranges = <0 0x40 0 0xffffffff>;
          pcie@1000 {{ {cells(3, 2)} device_type = "pci"; reg = <0x1000 0x100>;
            ranges = <0x01000000 0 0 0x2000 0 0x100>,
                     <0x42000000 0 0x10000000 0x10000000 0 0x1000000>,
                     <0x03000000 8 0 0x20000000 0 0x2000000>;
            pci@0,0 {{ {cells(3, 2)} device_type = "pci"; reg = <0 0 0 0 0>; ranges;
              nic@0,0 {{ reg = <0x10000 0 0 0 0>; }}; }};
          }};
        }};
        pcie@9 {{ {cells(2, 2)} reg = <0 9 0 1>; ranges = <0 0 0 0 0 0>; }};
        pcie@8 {{ reg = <0 8 0 1>; }};
        """
    )
    assert spans(board) == [
        ("pcie@8", 8, 1),
        ("pcie@9", 9, 1),
        ("pcie@1000", 0x40_0000_1000, 0x100),
        ("pcie@1000 PCI I/O", 0x40_0000_2000, 0x100),
        ("pcie@1000 PCI 32-bit memory", 0x40_1000_0000, 0x100_0000),
        ("pcie@1000 PCI 64-bit memory", 0x40_2000_0000, 0x200_0000),
    ]
    (note,) = board.notes
    assert "a PCI bus has 3 address cells, pcie@9 2" in note


def test_three_cell_bus_that_is_not_pci() -> None:
    # As the portals of fsl-mc: the first cell says what the other two address.
    board = root(
        """
        mc { #address-cells = <3>; #size-cells = <1>;
          ranges = <1 0 0 8 0x18000000 0x8000000>, <0 0 0 8 0xc000000 0x4000000>;
          portal@0 { reg = <0 0 0x10 0x40>; };
          other@1 { reg = <1 0 0x10 0x40>; };
          nowhere@2 { reg = <2 0 0x10 0x40>; };
        };
        """
    )
    assert spans(board) == [("portal@0", 0x8_0C00_0010, 0x40), ("other@1", 0x8_1800_0010, 0x40)]
    assert len(board.notes) == 1


def test_what_is_no_device() -> None:
    board = root(
        f"""
        aliases {{ serial0 = "/uart@9000000"; }};
        chosen {{ {cells(2, 2)} ranges; framebuffer@80000000 {{ reg = <0 0x80000000 0 1>; }}; }};
        cpus {{ {cells(1, 0)} cpu@0 {{ device_type = "cpu"; reg = <0>; }}; }};
        i2c@5000 {{ {cells(1, 0)} reg = <0 0x5000 0 0x10>; chip@50 {{ reg = <0x50>; }}; }};
        off@6000 {{ status = "disabled"; reg = <0 0x6000 0 1>; {cells(2, 2)} ranges;
          below@7000 {{ reg = <0 0x7000 0 1>; }}; }};
        uart@9000000 {{ reg = <0 0x9000000 0 0x1000>; }};
        empty@1 {{ reg = <0 1 0 0>; }};
        """
    )
    assert spans(board) == [("i2c@5000", 0x5000, 0x10), ("uart@9000000", 0x900_0000, 0x1000)]
    assert board.notes == ()


def test_broken_device_is_left_out_with_a_note() -> None:
    board = root("bad@1 { reg = <0 1 0>; }; good@2 { reg = <0 2 0 1>; };")
    assert spans(board) == [("good@2", 2, 1)]
    assert board.notes[0].startswith("bad@1 is left out: t.dtb: offset 0x")


def test_device_above_64_bits_is_left_out() -> None:
    board = root("top@1 { reg = <0xffffffff 0xffffffff 0 2>; };")
    assert board.mmio == ()
    assert "is in no ranges" in board.notes[0]


def test_hostile_ranges_end_soon() -> None:
    strings = b"reg\0ranges\0#address-cells\0#size-cells\0"
    one = prop(11, (1).to_bytes(4, "big")) + prop(26, (1).to_bytes(4, "big"))
    rows = b"".join(struct.pack(">3I", 2 * n, 2 * n, 1) for n in range(20_000))
    regs = prop(0, struct.pack(">2I", 0xFFFF_FFFF, 1) * 20_000)
    bus = node(b"bus", prop(4, rows), one, node(b"d@0", regs))
    start = time.perf_counter()
    with pytest.raises(UnreadableError, match="too many rows of ranges"):
        read(blob(node(b"", one, bus) + END, strings), "t", "t.dtb")
    assert time.perf_counter() - start < 5


def test_title_is_the_model() -> None:
    assert root("").title == "Some Board"
    assert compiled(f"/ {{ {cells(1, 1)} }};").title == "t"
