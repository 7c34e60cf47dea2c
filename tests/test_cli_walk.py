"""``ttbr walk``: answers, statuses, options, and JSON that says the same as the text."""

import json
import re
from pathlib import Path

import pytest

from commands import ttbr
from trees import (
    AF,
    BLOCK,
    EL0,
    ISH,
    PAGE,
    RO,
    S2_NORMAL,
    S2_READ,
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

OUT = 0x4000_0000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """VA 0x1000: EL0 read-only page; 0x2000: kernel page; 0x3000: AF clear; the rest nothing."""
    tree = Tree()
    last = tree.table(
        {1: OUT | AF | ISH | EL0 | RO | PAGE, 2: OUT | AF | ISH | UXN | PAGE, 3: OUT | PAGE}
    )
    middle = tree.table({0: last | TABLE, 1: 0x7000_0000 | TABLE})
    root = tree.table({0: middle | TABLE})
    file = tmp_path / "core"
    file.write_bytes(tree_core(tree, el1_registers(root, T0SZ=25, EPD1=1)))
    return file


def test_a_mapping(path: Path) -> None:
    result = ttbr("walk", path, "0x1234")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("0x1234: EL1&0, TTBR0_EL1: 4K granule, 39-bit")
    assert [re.sub(r" .*", "", line.strip()) for line in lines[1:4]] == ["L1", "L2", "L3"]
    assert lines[-1] == "  => PA 0x40000234, r-x/r-x Normal WB ISH"


def test_a_fault(path: Path) -> None:
    result = ttbr("walk", path, "0x5000")
    assert result.status == 1
    assert result.out.splitlines()[-2:] == [
        "  => Translation fault, level 3: invalid descriptor",
        "  fault status code 0x07, PAR_EL1 0x80f",
    ]


@pytest.mark.parametrize(
    ("va", "words"),
    [
        ("0x3000", "Access flag fault, level 3: AF=0 and HA=0"),
        ("0x200000", "External abort on translation table walk, level 3: no memory at 0x70000000"),
        ("0x8000000000", "Translation fault, level 0: address is outside the 39-bit range"),
        ("0xffff800000000000", "Translation fault, level 0: walks with TTBR1_EL1 are disabled"),
    ],
)
def test_faults_say_why(path: Path, va: str, words: str) -> None:
    result = ttbr("walk", path, va)
    assert result.status == 1
    assert words in result.out


def test_several_addresses(path: Path) -> None:
    result = ttbr("walk", path, "0x1000", "0x5000", "4096")
    assert result.status == 1
    assert len(result.out.split("\n\n")) == 3
    assert ttbr("walk", path, "0x1000", "0x2000").status == 0


@pytest.mark.parametrize(
    ("va", "access", "el0", "status"),
    [
        ("0x1000", "read", True, 0), ("0x1000", "write", True, 1), ("0x1000", "execute", True, 0),
        ("0x1000", "write", False, 1), ("0x2000", "write", False, 0),
        ("0x2000", "read", True, 1), ("0x2000", "execute", True, 1),
    ],
)  # fmt: skip
def test_access(path: Path, va: str, access: str, el0: bool, status: int) -> None:
    result = ttbr("walk", path, va, "--access", access, *(["--el0"] if el0 else []))
    assert result.status == status
    assert ("Permission fault, level 3" in result.out) == (status == 1)


def test_pan_comes_from_pstate(path: Path) -> None:
    """PSTATE.PAN in the core counts for a privileged access to a page of EL0."""
    tree = Tree()
    root = tree.chain((0, 0, 1), OUT | AF | EL0 | PAGE)
    registers = el1_registers(root, T0SZ=25)
    for pstate, status in ((0x5, 0), (0x5 | 1 << 22, 1)):
        path.write_bytes(tree_core(tree, registers, pstate))
        assert ttbr("walk", path, "0x1000", "--access", "read").status == status
        assert ttbr("walk", path, "0x1000").status == 0


def test_json_says_the_same(path: Path) -> None:
    addresses = ["0x1234", "0x2000", "0x3000", "0x200000", "0xffff800000000000"]
    text = ttbr("walk", path, *addresses)
    data = ttbr("walk", path, *addresses, "--json")
    assert (data.status, data.err) == (text.status, "")
    for part, body in zip(text.out.split("\n\n"), data.json, strict=True):
        steps = re.findall(r"L(-?\d) (0x\w+)\[(0x\w+)\].* = (0x\w+)  (\w+)", part)
        assert [
            (s["level"], int(s["table"], 16), s["index"], int(s["descriptor"], 16), s["kind"])
            for s in body["steps"]
        ] == [(int(lv), int(t, 16), int(i, 16), int(d, 16), k) for lv, t, i, d, k in steps]
        assert part.startswith(f"{body['va']}: ")
        if "pa" in body:
            assert f"=> PA {body['pa']}, {body['permissions']} {body['memory']}" in part
            assert int(body["par"], 16) & 1 == 0
        else:
            assert f"{body['fault']}, level {body['level']}: {body['reason']}" in part
            assert f"PAR_EL1 {body['par']}" in part
            assert int(body["par"], 16) >> 1 & 0x3F == body["status"]


def test_json_of_a_register_file_and_options(path: Path, tmp_path: Path) -> None:
    """The options win over --regs, which wins over the image."""
    tree = Tree(base=0x9000_0000)
    root = tree.chain((0, 0, 1), 0x5000_0000 | AF | PAGE)
    raw = tmp_path / "raw"
    raw.write_bytes(b"".join(bytes(tree.tables[a]) for a in sorted(tree.tables)))
    regs = tmp_path / "r.json"
    regs.write_text(json.dumps({"TTBR0_EL1": "0x1", "TCR_EL1": hex(tcr_el1(T0SZ=25))}))
    words = ["walk", raw, "0x1000", "--base", "0x90000000", "--regs", regs, "--json"]
    (body,) = ttbr(*words, "--ttbr0-el1", hex(root), "--tcr-el1=" + hex(tcr_el1(T0SZ=25))).json
    assert body["pa"] == "0x50000000"
    toml = tmp_path / "r.toml"
    toml.write_text(f"TTBR0_EL1 = {root}\nTCR_EL1 = {tcr_el1(T0SZ=25)}\n")
    (body,) = ttbr(*words[:5], "--regs", toml, "--json").json
    assert body["pa"] == "0x50000000"


def test_regime_of_the_registers(tmp_path: Path) -> None:
    """PSTATE says which regime; without it the only TCR; --regime and --el choose."""
    tree = Tree()
    el1 = tree.chain((0, 0, 1), 0x1000_0000 | AF | PAGE)
    el2 = tree.chain((0, 0, 1), 0x2000_0000 | AF | PAGE)
    registers = el1_registers(el1, T0SZ=25)
    registers |= {"TTBR0_EL2": el2, "TCR_EL2": tcr_el2(T0SZ=25), "HCR_EL2": hcr_el2()}
    path = tmp_path / "core"

    def pa(*options: str, pstate: int = 0x5) -> str:
        path.write_bytes(tree_core(tree, registers, pstate))
        (body,) = ttbr("walk", path, "0x1000", "--json", *options).json
        return str(body["pa"])

    assert pa() == "0x10000000"
    assert pa(pstate=0x9) == "0x20000000"
    assert pa("--regime", "el2") == "0x20000000"
    assert pa("--el", "2") == "0x20000000"
    assert pa("--regime", "el1", pstate=0x9) == "0x10000000"


def test_several_regimes_and_no_pstate(tmp_path: Path) -> None:
    tree = Tree()
    root = tree.chain((0, 0, 1), OUT | AF | PAGE)
    raw = tmp_path / "raw"
    raw.write_bytes(b"".join(bytes(tree.tables[a]) for a in sorted(tree.tables)))
    words = ["walk", raw, "0x1000", "--base", hex(root - 0x2000), "--ttbr0-el1", hex(root)]
    assert "no TCR_ELx: say which with --regime" in ttbr(*words).refusal
    both = ["--tcr-el1", hex(tcr_el1(T0SZ=25)), "--tcr-el2", hex(tcr_el2())]
    assert "several regimes: say which with --regime" in ttbr(*words, *both).refusal
    assert ttbr(*words, *both, "--regime", "el1").status == 0


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """VA 0x1000 to IPA 0x40200000, which stage 2 maps read-only; tables at IPAs."""
    tree = Tree()
    middle = tree.table(
        {0: 0x8000_0000 | AF | ISH | S2_RW | S2_NORMAL | BLOCK,
         1: 0x9000_0000 | AF | ISH | S2_READ | S2_NORMAL | BLOCK}
    )  # fmt: skip
    stage2 = tree.table({1: middle | TABLE}, count=2)
    shift = OUT
    last = tree.table({1: OUT + 0x20_0000 | AF | PAGE}) - shift
    second = tree.table({0: last | TABLE}) - shift
    root = tree.table({0: second | TABLE}) - shift
    registers = el1_registers(root, T0SZ=25, EPD1=1) | stage2_registers(stage2)
    file = tmp_path / "guest"
    file.write_bytes(tree_core(tree, registers))
    return file


def test_two_stages(guest: Path) -> None:
    result = ttbr("walk", guest, "0x1008")
    assert result.status == 0
    assert "=> PA 0x90000008 (IPA 0x40200008), r-x" in result.out
    assert "S2 L1" in result.out
    (body,) = ttbr("walk", guest, "0x1008", "--json").json
    assert (body["ipa"], body["pa"]) == ("0x40200008", "0x90000008")
    assert body["stage2"]["permissions"] == "r-x/r-x"
    write = ttbr("walk", guest, "0x1008", "--access", "write")
    assert write.status == 1
    assert "Permission fault, level 2, stage 2" in write.out
    assert "IPA 0x40200008" in write.out


def test_stage1_alone(guest: Path) -> None:
    result = ttbr("walk", guest, "0x1008", "--stage1", "--access", "write")
    assert result.status == 0
    assert "0x40200008" in result.out.splitlines()[-1]


def test_stage2_alone(guest: Path) -> None:
    result = ttbr("walk", guest, "0x40200008", "--regime", "stage2")
    assert result.status == 0
    assert result.out.splitlines()[-1] == "  => PA 0x90000008"
    (body,) = ttbr("walk", guest, "0x40200008", "--regime", "stage2", "--json").json
    assert (body["ipa"], body["pa"]) == ("0x40200008", "0x90000008")
    outside = ttbr("walk", guest, "0x10000000000", "--regime", "stage2")
    assert outside.status == 1
    assert "Translation fault, level 0, stage 2" in outside.out


@pytest.mark.parametrize(("access", "status"), [("read", 0), ("write", 1), ("execute", 0)])
@pytest.mark.parametrize("el0", [False, True])
def test_access_at_stage2_alone(guest: Path, access: str, status: int, el0: bool) -> None:
    """A refused access is not called a mapping."""
    words = ["--regime", "stage2", "--access", access, *(["--el0"] if el0 else [])]
    result = ttbr("walk", guest, "0x40200008", *words)
    assert result.status == status
    assert ("Permission fault" in result.out) == (status == 1)


def test_forced_write_back_is_told_in_its_own_words(guest: Path) -> None:
    """FEAT_S2FWB gives MemAttr another meaning: 0b1111 is no type there, 0b0110 is Write-Back."""
    tree = Tree()
    stage2 = tree.table({1: 0x8000_0000 | AF | ISH | S2_RW | 0b0110 << 2 | BLOCK}, count=2)
    guest.write_bytes(tree_core(tree, stage2_registers(stage2, {"FWB": 1})))
    result = ttbr("walk", guest, "0x40000000", "--regime", "stage2")
    assert result.status == 0
    assert "WT" not in result.out
    assert " NC" not in result.out
    assert "WB" in result.out


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--el0"], "--el0"),
        (["--regime", "stage2", "--stage1"], "--stage1"),
        (["--regime", "stage2", "--el0"], "--el0"),
    ],
)
def test_options_that_contradict(guest: Path, options: list[str], word: str) -> None:
    assert word in ttbr("walk", guest, "0x40000000", *options).refusal


def test_mmu_off(path: Path) -> None:
    result = ttbr("walk", path, "0x1234", "--sctlr-el1", "0")
    assert result.status == 0
    assert "stage 1 off" in result.out
    assert result.out.splitlines()[-1].startswith("  => PA 0x1234, ")


def test_a_disabled_half_has_no_made_up_shape(path: Path) -> None:
    """EPD0=1 with a reserved TG0: nothing is known of granule, size or root."""
    result = ttbr("walk", path, "0x1000", "--tcr-el1", hex(tcr_el1(TG0=3, EPD0=1, T0SZ=3)))
    assert result.status == 1
    assert "EPD=1" in result.out
    assert "4K granule" not in result.out
    assert "48-bit" not in result.out


def test_one_address_that_cannot_be_answered(path: Path) -> None:
    """The others are, and it is named with the file."""
    upper = "0xffffff8000000000"
    words = [path, "0x1234", upper, "0x5000", "--tcr-el1", hex(tcr_el1(T0SZ=25, T1SZ=2))]
    result = ttbr("walk", *words)
    assert result.status == 2
    assert [text.split(":")[0] for text in result.out.split("\n\n")] == ["0x1234", "0x5000"]
    assert result.err.startswith(f"ttbr walk: {path}: {upper}: TCR_EL1.T1SZ=2 is out of range")
    assert result.err.count("\n") == 1
    answers = ttbr("walk", *words, "--json").json
    assert [answer["va"] for answer in answers] == ["0x1234", upper, "0x5000"]
    assert "T1SZ=2" in answers[1]["error"]
    alone = ttbr("walk", path, upper, *words[4:]).refusal
    assert alone.startswith(f"ttbr walk: {path}: {upper}: TCR_EL1.T1SZ=2")
