"""``ttbr dump``: listing, filters, summary, ptdump, and JSON that says the same as the text."""

import re
from pathlib import Path

import pytest

from commands import ttbr
from trees import (
    AF,
    BLOCK,
    CONT,
    EL0,
    ISH,
    PAGE,
    PXN,
    RO,
    S2_NORMAL,
    S2_RW,
    TABLE,
    UXN,
    Tree,
    el1_registers,
    hcr_el2,
    stage2_registers,
    tcr_el1,
    tcr_el2,
    tree_core,
)
from ttbr.memory import open_image

OUT = 0x4000_0000
M = 1 << 20
PAGES = {
    **{i: OUT + (i << 12) | AF | ISH | RO | UXN | PAGE for i in range(4)},  # r-x text
    4: OUT | AF | ISH | PAGE,  # rwx at EL1
    8: OUT | AF | ISH | EL0 | PXN | UXN | PAGE,  # user data
    **{16 + i: OUT + (i << 12) | AF | ISH | CONT | UXN | PXN | PAGE for i in range(16)},
}
LINE = re.compile(
    r"0x([0-9a-f]{16})-0x([0-9a-f]{16}) +(\d+)([KMGTP])  L(-?\d)  (0x[0-9a-f]+)  (.*)"
)
UNITS = {"K": 10, "M": 20, "G": 30, "T": 40, "P": 50}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tree = Tree()
    last = tree.table(PAGES)
    middle = tree.table({0: last | TABLE, 3: 0x1000_0000 | 1 << 2 | AF | UXN | PXN | BLOCK})
    lower = tree.table({0: middle | TABLE})
    upper = tree.table({511: 0x8000_0000 | AF | ISH | BLOCK})
    file = tmp_path / "core"
    file.write_bytes(tree_core(tree, el1_registers(lower, upper, T0SZ=25, T1SZ=25)))
    return file


def rows(out: str) -> list[tuple[int, int, int, int, str]]:
    """(start, size, level, output, attributes) of each mapping listed."""
    found = []
    for line in out.splitlines():
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        assert match, line
        start, end, number, unit, level, output, what = match.groups()
        size = int(number) << UNITS[unit]
        assert (int(end, 16) - int(start, 16)) % (1 << 64) == size
        found.append((int(start, 16), size, int(level), int(output, 16), what))
    return found


LOWER = [
    (0x0000, 0x4000, 3, OUT, "r-x/--- Normal WB ISH"),
    (0x4000, 0x1000, 3, OUT, "rwx/--x Normal WB ISH"),
    (0x8000, 0x1000, 3, OUT, "rw-/rw- Normal WB ISH"),
    (0x10000, 0x10000, 3, OUT, "rw-/--- Normal WB ISH CONT"),
    (0x60_0000, 0x20_0000, 2, 0x1000_0000, "rw-/--- Device-nGnRE"),
]
UPPER = [((1 << 64) - (1 << 30), 1 << 30, 1, 0x8000_0000, "rwx/--x Normal WB ISH")]


def test_listing(path: Path) -> None:
    result = ttbr("dump", path)
    assert (result.status, result.err) == (0, "")
    assert rows(result.out) == LOWER + UPPER
    heads = [line for line in result.out.splitlines() if line.startswith("#")]
    assert heads[0].startswith("# TTBR0_EL1: 4K granule, 39-bit")
    assert heads[1] == ("# 3 tables (12K), 23 leaves map 2136K: 1 x 2M, 22 x 4K")
    assert heads[2].startswith("# TTBR1_EL1")
    assert heads[3] == "# 1 tables (4K), 1 leaves map 1G: 1 x 1G"


@pytest.mark.parametrize(("half", "wanted"), [("lower", LOWER), ("upper", UPPER)])
def test_half(path: Path, half: str, wanted: list[tuple[int, int, int, int, str]]) -> None:
    assert rows(ttbr("dump", path, "--half", half).out) == wanted


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (["writable"], LOWER[1:] + UPPER),
        (["executable"], LOWER[:2] + UPPER),
        (["wx"], [LOWER[1], *UPPER]),
        (["user"], [LOWER[2]]),
        (["device"], [LOWER[4]]),
        (["contiguous"], [LOWER[3]]),
        (["block"], [LOWER[4], *UPPER]),
        (["block", "executable"], UPPER),
        (["user", "device"], []),
    ],
)
def test_filters(
    path: Path, filters: list[str], wanted: list[tuple[int, int, int, int, str]]
) -> None:
    options = [word for name in filters for word in ("--only", name)]
    result = ttbr("dump", path, *options)
    assert result.status == 0
    assert rows(result.out) == wanted


@pytest.mark.parametrize(
    ("level", "wanted"), [(3, LOWER[:4]), (2, LOWER[4:]), (1, UPPER), (0, []), (-1, [])]
)
def test_level(path: Path, level: int, wanted: list[tuple[int, int, int, int, str]]) -> None:
    assert rows(ttbr("dump", path, "--level", level).out) == wanted


@pytest.mark.parametrize(
    ("span", "wanted"),
    [
        ("0x8000-0x8fff", [LOWER[2]]),
        ("0x9000-0xffff", []),
        ("0x100000-0xffffffffffffffff", [LOWER[4], *UPPER]),
        ("0xffffffff00000000-0xffffffffffffffff", UPPER),
        ("0-0", [(0, 0x1000, 3, OUT, "r-x/--- Normal WB ISH")]),
    ],
)
def test_range(path: Path, span: str, wanted: list[tuple[int, int, int, int, str]]) -> None:
    assert rows(ttbr("dump", path, "--range", span).out) == wanted


@pytest.mark.parametrize(
    "span", ["0x1000", "foo", "0x2000-0x1000", "-", "0x1000-", "-0x1000", "0x0-0x1g", ""]
)
def test_bad_range(path: Path, span: str) -> None:
    assert "--range" in ttbr("dump", path, f"--range={span}").refusal


def test_json_says_the_same(path: Path) -> None:
    text, data = ttbr("dump", path), ttbr("dump", path, "--json")
    assert (data.status, data.err) == (0, "")
    found = []
    for half in data.json:
        for body in half["mappings"]:
            words = f"{body['permissions']} {body['memory']}"
            if not body["memory"].startswith("Device"):
                words += f" {body['shareability']}"
            words += " CONT" if body["contiguous"] else ""
            found.append(
                (int(body["va"], 16), body["size"], body["level"], int(body["pa"], 16), words)
            )
    assert found == rows(text.out)
    for half, head in zip(
        data.json, [line for line in text.out.splitlines() if "leaves" in line], strict=True
    ):
        summary = half["summary"]
        assert head.startswith(f"# {summary['tables']} tables")
        assert summary["mapped_bytes"] == sum(body["size"] for body in half["mappings"])
        assert sum(row["count"] for row in summary["leaves"]) == sum(
            body["size"] // body["leaf_size"] for body in half["mappings"]
        )


def test_json_with_filters(path: Path) -> None:
    for options in (
        ["--only", "wx"],
        ["--level", "3"],
        ["--range", "0-0x4fff"],
        ["--half", "upper"],
    ):
        text, data = ttbr("dump", path, *options), ttbr("dump", path, "--json", *options)
        count = sum(len(half["mappings"]) for half in data.json)
        assert count == len(rows(text.out)), options


def test_summary_alone(path: Path) -> None:
    whole = ttbr("dump", path).out.splitlines()
    assert ttbr("dump", path, "--summary").out.splitlines() == [
        line for line in whole if line.startswith("#")
    ]


def test_ptdump_is_of_el1_and_its_columns(path: Path) -> None:
    """At EL2 bit 6 is RES1 and bit 54 is XN: the kernel's columns would say what is not so."""
    other = ["--ttbr0-el2", "0x8000_0000", "--tcr-el2", "0x80803519"]
    result = ttbr(
        "dump", path, "--regime", "el2", "--ttbr0-el2", root_of(path), *other[2:], "--ptdump"
    )
    assert "its columns are of EL1&0 and EL2&0, not of EL2" in result.refusal


def test_ptdump_says_that_a_half_is_not_walked(path: Path) -> None:
    tcr = open_image(path).registers.values["TCR_EL1"] | 1 << 23
    words = ["dump", path, "--tcr-el1", hex(tcr), "--ptdump"]
    assert ttbr(*words).err == ""
    result = ttbr(*words, "--half", "upper")
    assert (result.status, result.out) == (0, "")
    assert result.err == "# TTBR1_EL1: walks disabled (EPD=1)\n"


def root_of(path: Path) -> str:
    return hex(open_image(path).registers.values["TTBR0_EL1"])


def test_ptdump_tiles_the_half(path: Path) -> None:
    result = ttbr("dump", path, "--ptdump", "--half", "lower")
    assert result.status == 0
    at = 0
    for line in result.out.splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        assert start == at
        at = end
    assert at == 1 << 39
    text = "0x0000000000000000-0x0000000000004000          16K PTE       ro x  SHD AF       "
    assert result.out.startswith(text)


@pytest.mark.parametrize("more", [["--only", "wx"], ["--level", "3"], ["--combined"]])
def test_ptdump_takes_no_filters(path: Path, more: list[str]) -> None:
    assert ttbr("dump", path, "--ptdump", *more).refusal


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--combined"], "--combined"),
        (
            [
                "--regime",
                "stage2",
                "--half",
                "upper",
                "--vtcr-el2",
                "0x80023558",
                "--vttbr-el2",
                "0x80002000",
            ],
            "--half",
        ),
        (["--summary", "--json"], "--json"),
        (["--summary", "--ptdump"], "--ptdump"),
    ],
)
def test_options_that_contradict(path: Path, options: list[str], word: str) -> None:
    result = ttbr("dump", path, *options)
    assert (result.status, result.out) == (2, "")
    assert word in result.err


def test_one_range_has_no_upper_half(tmp_path: Path) -> None:
    tree = Tree()
    root = tree.chain((0, 0, 1), OUT | AF | PAGE)
    file = tmp_path / "core"
    file.write_bytes(tree_core(tree, {"TTBR0_EL2": root, "TCR_EL2": tcr_el2(T0SZ=25)}, 0x9))
    assert "--half upper: regime EL2 has one range" in ttbr("dump", file, "--half", "upper").refusal
    assert len(rows(ttbr("dump", file, "--half", "lower").out)) == 1


def test_missing_table_is_a_finding(path: Path) -> None:
    tree = Tree()
    root = tree.table({0: 0x7000_0000 | TABLE, 1: OUT | AF | BLOCK})
    path.write_bytes(tree_core(tree, el1_registers(root, T0SZ=25, EPD1=1)))
    result = ttbr("dump", path)
    assert result.status == 1
    assert "!! no memory at 0x70000000" in result.out
    assert "1 parts unreadable" in result.out
    data = ttbr("dump", path, "--json")
    assert data.status == 1
    assert data.json[0]["mappings"][0]["unreadable"] == "no memory at 0x70000000"


def test_tree_without_end_stops_and_says_so(path: Path) -> None:
    tree = Tree()
    root = tree.table()
    for index in range(512):
        tree.set(root, index, root | AF | TABLE)
    path.write_bytes(tree_core(tree, el1_registers(root, EPD1=1)))
    result = ttbr("dump", path, "--summary")
    assert result.status == 1
    assert "unreadable" in result.out


def test_one_bad_half_does_not_hide_the_other(path: Path) -> None:
    tcr = tcr_el1(T0SZ=5, T1SZ=25)
    result = ttbr("dump", path, "--tcr-el1", hex(tcr))
    assert result.status == 1
    assert rows(result.out) == UPPER
    assert result.err == (
        "ttbr dump: TCR_EL1.T0SZ=5 is out of range: 16 to 48 with the 4K granule\n"
    )


def test_nothing_to_list_is_said(path: Path) -> None:
    """Both halves disabled, or stage 1 off: silence would look like an empty map."""
    off = ttbr("dump", path, "--tcr-el1", hex(tcr_el1(EPD0=1, EPD1=1)))
    assert "EPD" in off.out + off.err
    off = ttbr("dump", path, "--sctlr-el1", "0")
    assert "off" in off.out + off.err


@pytest.mark.parametrize(
    ("registers", "text"),
    [
        ({"TCR_EL3": 0, "TTBR0_EL3": 0, "SCTLR_EL3": 0}, "EL3: stage 1 off (SCTLR_EL3.M=0)"),
        ({"TCR_EL2": 0, "TTBR0_EL2": 0, "SCTLR_EL2": 0}, "EL2: stage 1 off (SCTLR_EL2.M=0)"),
        ({"TCR_EL1": 0, "SCTLR_EL1": 0}, "EL1&0: stage 1 off (SCTLR_EL1.M=0)"),
        # A root that is not there, as left over from firmware.
        ({"TCR_EL3": 25, "TTBR0_EL3": 0x7000, "SCTLR_EL3": 0}, "EL3: stage 1 off (SCTLR_EL3.M=0)"),
        (
            {"TCR_EL1": 0, "SCTLR_EL1": 1, "HCR_EL2": hcr_el2(TGE=1)},
            "EL1&0: stage 1 off (HCR_EL2.TGE=1)",
        ),
        (
            {"TCR_EL1": 0, "SCTLR_EL1": 1, **stage2_registers(0, {"DC": 1})},
            "EL1&0: stage 1 off (HCR_EL2.DC=1)",
        ),
    ],
)
def test_stage_1_off_without_tables(tmp_path: Path, registers: dict[str, int], text: str) -> None:
    """What walk answers for each address, dump and info say of all."""
    (file := tmp_path / "memory").write_bytes(bytes(4096))
    words = [file, "--base", "0"]
    for name, value in registers.items():
        words += [f"--{name.lower().replace('_', '-')}", hex(value)]
    listed = ttbr("dump", *words)
    assert (listed.status, listed.out, listed.err) == (0, f"# {text}\n", "")
    assert ttbr("dump", *words, "--summary").out == listed.out
    (half,) = ttbr("dump", *words, "--json").json
    assert half == {"half": None, "in_use": False, "why_not": text, "mappings": []}
    kernel = ttbr("dump", *words, "--ptdump")
    assert (kernel.status, kernel.out, kernel.err) == (0, "", f"# {text}\n")
    about = ttbr("info", *words)
    assert (about.status, about.err) == (0, "")
    assert text in about.out.splitlines()
    assert "out of range" not in about.out
    (lines,) = ttbr("info", *words, "--json").json["regimes"].values()
    assert lines[0] == text
    if "VTCR_EL2" not in registers:  # else stage 2 translates
        walked = ttbr("walk", *words, "0x10")
        assert (walked.status, walked.out.splitlines()[1].split(",")[0]) == (0, "  => PA 0x10")


def test_stage_1_off_with_a_stage_2_that_cannot_be(tmp_path: Path) -> None:
    (file := tmp_path / "memory").write_bytes(bytes(4096))
    words = [file, "--base", "0", "--tcr-el1", "0", "--sctlr-el1", "0", "--hcr-el2", hcr_el2(VM=1)]
    assert ttbr("dump", *words).status == ttbr("walk", *words, "0").status == 2


def test_combined(tmp_path: Path) -> None:
    tree = Tree()
    stage2 = tree.table(
        {1: 0x8000_0000 | AF | ISH | S2_RW | S2_NORMAL | BLOCK,
         3: 0xC000_0000 | AF | ISH | S2_RW | S2_NORMAL | BLOCK},
        count=2,
    )  # fmt: skip
    root = tree.table({0: 0xC000_0000 | AF | BLOCK, 1: 0x8000_0000 | AF | BLOCK}) - OUT
    file = tmp_path / "core"
    registers = el1_registers(root, T0SZ=25, EPD1=1) | stage2_registers(stage2)
    file.write_bytes(tree_core(tree, registers))
    plain = ttbr("dump", file)
    assert [row[3] for row in rows(plain.out)] == [0xC000_0000, 0x8000_0000]
    result = ttbr("dump", file, "--combined")
    assert "=> PA 0xc0000000" in result.out
    assert "!! Translation fault, level 1, stage 2" in result.out
    assert result.status == 1
    (half,) = ttbr("dump", file, "--combined", "--json").json
    mapping, hole = half["mappings"]
    assert "Translation fault" in hole["unreadable"]
    assert (mapping["ipa"], mapping["pa"]) == ("0xc0000000", "0xc0000000")
