"""The blob reader, against libfdt's own tools and against broken blobs."""

import os
import shutil
import struct
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbr.boards import devicetree
from ttbr.boards.fdt import Node, parse
from ttbr.errors import TtbrError, UnreadableError

CAPTURES = Path(
    os.environ.get("TTBR_CAPTURES", Path(__file__).parents[1] / "../shared/captures")
).resolve()
BLOBS = sorted(CAPTURES.glob("*/guest.dtb"))

BEGIN, END_NODE, PROP, END = (n.to_bytes(4, "big") for n in (1, 2, 3, 9))


def blob(structure: bytes, strings: bytes = b"", reserve: bytes = bytes(16)) -> bytes:
    """A version 17 blob around the given blocks."""
    at_structure = 40 + len(reserve)
    at_strings = at_structure + len(structure)
    total = at_strings + len(strings)
    header = struct.pack(
        ">10I",
        *(0xD00DFEED, total, at_structure, at_strings, 40, 17, 16, 0, len(strings), len(structure)),
    )
    return header + reserve + structure + strings


def prop(name_offset: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return PROP + struct.pack(">2I", len(value), name_offset) + padded


def node(name: bytes, *content: bytes) -> bytes:
    return BEGIN + name + bytes(4 - len(name) % 4) + b"".join(content) + END_NODE


def fdtget(*arguments: str) -> list[str]:
    done = subprocess.run(["fdtget", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.split()


def same(found: Node, path: str, file: str) -> int:
    """Check *found* and all below against libfdt; the number of properties seen."""
    assert fdtget("-p", file, path) == list(found.properties)
    for one in found.properties.values():
        if one.value:
            assert bytes(int(b, 16) for b in fdtget("-t", "bx", file, path, one.name)) == one.value
    assert fdtget("-l", file, path) == [child.name for child in found.children]
    below = sum(same(c, f"{path.rstrip('/')}/{c.name}", file) for c in found.children)
    return len(found.properties) + below


@pytest.mark.skipif(
    not (BLOBS and shutil.which("fdtget")),
    reason="no captures, or no fdtget: apt-get install device-tree-compiler",
)
def test_every_property_is_as_libfdt_reads_it() -> None:
    tree = parse(BLOBS[0].read_bytes(), "guest.dtb")
    assert same(tree.root, "/", str(BLOBS[0])) > 100


def test_minimal_tree() -> None:
    tree = parse(blob(node(b"", prop(0, b"x\0y\0")) + END, b"model\0"), "t")
    assert tree.root.string("model") == "x"
    assert tree.root.properties["model"].strings() == ["x", "y"]
    assert (tree.reserved, tree.root.string("none")) == ((), "")


def test_reservations_and_nops() -> None:
    nop = (4).to_bytes(4, "big")
    reserve = struct.pack(">4Q", 0x8000, 0x1000, 0, 0)
    data = blob(nop + node(b"", nop, prop(0, b""), nop) + nop + END, b"a\0", reserve)
    assert parse(data, "t").reserved == ((0x8000, 0x1000),)


GOOD = blob(node(b"", prop(0, b"abcd"), node(b"n")) + END, b"model\0")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t: offset 0x0: device tree header is cut off"),
        (b"\0" + GOOD[1:], "t: offset 0x0: magic 0xdfeed"),
        (GOOD[:-1], "t: offset 0x4: device tree is cut off"),
        (GOOD[:20] + (16).to_bytes(4, "big") + GOOD[24:], "version 16 .* not supported"),
        (GOOD[:24] + (18).to_bytes(4, "big") + GOOD[28:], "compatible to 18"),
        (GOOD[:4] + (3 << 20).to_bytes(4, "big") + GOOD[8:], "more than the 0x200000 that Linux"),
        (GOOD[:8] + (1 << 31).to_bytes(4, "big") + GOOD[12:], "structure block .* outside"),
        (GOOD[:36] + (1 << 31).to_bytes(4, "big") + GOOD[40:], "structure block .* outside"),
        (GOOD[:12] + bytes(4) + GOOD[16:], "strings block .* outside"),
        (GOOD[:16] + (1 << 20).to_bytes(4, "big") + GOOD[20:], "reservation block .* outside"),
        (GOOD[:8] + (57).to_bytes(4, "big") + GOOD[12:], "not 4-byte aligned"),
        (blob(node(b"") + END, reserve=b"\1" * 16), "reservation block has no end"),
        (blob(node(b"")), "device tree is cut off"),
        (blob(END), "token 0x9 has no place here"),
        (blob(END_NODE), "token 0x2 has no place here"),
        (blob(BEGIN + b"\0\0\0\0" + END), "token 0x9 has no place here"),
        (blob(node(b"") + node(b"") + END), "second root node"),
        (blob(node(b"") + prop(0, b"") + END, b"a\0"), "token 0x3 has no place here"),
        (blob(BEGIN + b"abcd"), "node name is cut off"),
        (blob(node(b"a\n") + END), "not printable ASCII"),
        (blob(node(b"", prop(7, b"")) + END, b"a\0"), "property name is cut off"),
        (blob(node(b"", prop(0, b"")) + END, b"a" * 300 + b"\0"), "name is cut off or too long"),
        (blob(node(b"", PROP + struct.pack(">2I", 99, 0)), b"a\0"), "0x63 bytes is cut off"),
        (blob(node(b"", node(b"n"), prop(0, b"")) + END, b"a\0"), "a of / stands behind a child"),
        (blob(node(b"", prop(0, b""), prop(0, b"")) + END, b"a\0"), "a of / is there twice"),
        (blob(BEGIN + bytes(4) + (5).to_bytes(4, "big")), "token 0x5 has no place here"),
    ],
)
def test_broken_blobs(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableError, match=message) as caught:
        parse(data, "t")
    assert str(caught.value).startswith("t: offset 0x")


def test_depth_is_bounded() -> None:
    opened = BEGIN + b"n\0\0\0"
    for depth, fits in ((64, True), (65, False), (100_000, False)):
        data = blob(opened * depth + END_NODE * depth + END)
        if fits:
            parse(data, "t")
        else:
            with pytest.raises(UnreadableError, match="deeper than 64"):
                parse(data, "t")


def test_memory_is_in_proportion() -> None:
    # Many properties that all name the same long string, in one node each.
    names = b"x" * 127 + b"\0"
    data = blob(node(b"", *(node(b"n", prop(0, b"")) for _ in range(20_000))) + END, names)
    tracemalloc.start()
    parse(data, "t")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(data)


def read_quickly(data: bytes) -> None:
    """Read *data* as a board: it must work or raise a one-line `TtbrError`, soon."""
    start = time.perf_counter()
    message = ""
    try:
        devicetree.read(data, "fuzz", "fuzz.dtb")
    except TtbrError as error:
        message = str(error)
    assert "\n" not in message
    assert time.perf_counter() - start < 5


SEED = BLOBS[0].read_bytes() if BLOBS else GOOD


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    read_quickly(data)
    read_quickly(GOOD[:40] + data)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=20),
    st.none() | st.integers(0, len(SEED)),
)
def test_mutated_blobs(changes: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(SEED)
    for offset, byte in changes:
        data[offset] = byte
    read_quickly(bytes(data[:cut]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SEED) // 4 - 1), st.integers(0, 2**32 - 1))))
def test_mutated_cells(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SEED)
    for word, value in changes:
        data[4 * word : 4 * word + 4] = value.to_bytes(4, "big")
    read_quickly(bytes(data))
