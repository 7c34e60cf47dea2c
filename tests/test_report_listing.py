"""Lines of a listing and the sums below it."""

import pytest

from trees import AF, BLOCK, CONT, EL0, ISH, PAGE, PXN, RO, TABLE, UXN, Tree
from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import WalkParams, walk_params
from ttbr.report.listing import FILTERS, Summary, line, lines
from ttbr.walk import Run, Unreadable, runs

OUT = 0x4000_0000


def params(root: int, **flags: object) -> WalkParams:
    flags = {"el0": True, "mair": 0x04FF} | flags
    return walk_params("T", GRANULES["4K"], 30, root, **flags)  # type: ignore[arg-type]


def one(descriptor: int, level: int = 3, **flags: object) -> Run:
    """The run of a single leaf at index 1."""
    tree = Tree()
    root = tree.chain((0, 1) if level == 3 else (1,), descriptor)
    (run,) = runs(tree.memory, params(root, **flags))
    assert isinstance(run, Run)
    return run


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (
            one(OUT | AF | ISH | PAGE),
            "0x0000000000001000-0x0000000000002000       4K  L3  0x000040000000  rwx/--x Normal WB ISH",
        ),
        (
            one(1 << 40 | AF | 1 << 2 | UXN | PXN | BLOCK, 2),
            "0x0000000000200000-0x0000000000400000       2M  L2  0x010000000000  rw-/--- Device-nGnRE",
        ),
        (
            one((1 << 48) - 4096 | RO | EL0 | CONT | PAGE, upper=True),
            "0xffffffffc0001000-0xffffffffc0002000       4K  L3  0xfffffffff000  r-x/r-x Normal WB NSH AF=0 CONT",
        ),
    ],
)
def test_line(run: Run, text: str) -> None:
    assert line(run) == text
    assert list(lines([run, run])) == [text, text]


def test_the_last_line_of_the_address_space() -> None:
    tree = Tree()
    root = tree.chain((511, 511), OUT | AF | PAGE)
    (run,) = runs(tree.memory, params(root, upper=True))
    assert isinstance(run, Run)
    assert line(run).startswith("0xfffffffffffff000-0x0000000000000000       4K")


def test_unreadable() -> None:
    item = Unreadable(0x20_0000, 0x20_0000, 3, 0x7000_0000, "no memory at 0x70000000")
    assert line(item) == (
        "0x0000000000200000-0x0000000000400000       2M  L3  "
        "!! no memory at 0x70000000 (table 0x70000000)"
    )


@pytest.mark.parametrize(
    ("descriptor", "passing"),
    [
        (OUT | AF | PAGE, {"writable", "executable", "wx"}),
        (OUT | AF | UXN | PXN | PAGE, {"writable"}),
        (OUT | AF | UXN | PXN | RO | PAGE, set[str]()),
        (OUT | AF | EL0 | UXN | PXN | RO | PAGE, {"user"}),
        (OUT | AF | UXN | PXN | RO | 1 << 2 | PAGE, {"device"}),
        (OUT | AF | UXN | PXN | RO | CONT | PAGE, {"contiguous"}),
        (OUT | AF | RO | PAGE, {"executable"}),
    ],
)
def test_filters(descriptor: int, passing: set[str]) -> None:
    run = one(descriptor)
    assert {name for name, test in FILTERS.items() if test(run)} == passing


def test_block_filter() -> None:
    assert FILTERS["block"](one(OUT | AF | BLOCK, 2))
    assert not FILTERS["block"](one(OUT | AF | PAGE))


def test_summary() -> None:
    tree = Tree()
    last = tree.table({i: OUT + (i << 12) | AF | PAGE for i in range(20)})
    root = tree.table(
        {0: last | TABLE, 1: 0x7000_0000 | TABLE, 2: OUT | AF | BLOCK, 9: OUT | AF | BLOCK}
    )
    summary = Summary()
    found = list(summary.count(runs(tree.memory, params(root), count=summary.tables)))  # type: ignore[arg-type]
    assert len(found) == 4
    assert summary.text().endswith("22 leaves map 4176K: 2 x 2M, 20 x 4K; 1 parts unreadable")
    plain = summary.plain()
    assert plain["mapped_bytes"] == 2 * (2 << 20) + 20 * 4096
    assert plain["unreadable"] == 1
    assert plain["leaves"] == [
        {"level": 2, "leaf_size": 2 << 20, "count": 2, "bytes": 4 << 20},
        {"level": 3, "leaf_size": 4096, "count": 20, "bytes": 20 << 12},
    ]


def test_tables_that_were_not_read_do_not_count() -> None:
    """ "memory used by tables" is of tables that are there."""
    tree = Tree()
    root = tree.table({1: 0x7000_0000 | TABLE})
    summary = Summary()
    list(summary.count(runs(tree.memory, params(root), count=summary.tables)))  # type: ignore[arg-type]
    assert summary.plain()["tables"] == 1
    assert summary.plain()["table_bytes"] == 4096


def test_empty() -> None:
    tree = Tree()
    root = tree.table()
    summary = Summary()
    assert list(summary.count(runs(tree.memory, params(root), count=summary.tables))) == []  # type: ignore[arg-type]
    assert summary.text() == "1 tables (4K), 0 leaves map 0B"
