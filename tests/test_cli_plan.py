"""The commands that plan, build, prove and run: what they print, write and return."""

import json
from pathlib import Path

import pytest

from commands import process
from test_boards_fdt import END, blob, node, prop
from ttbr.cli import main

SEATTLE = ["--va-bits", "39", "--era", "4.1", "--image", "0x8000080000"]


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error)."""
    status = main(list(words))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_boards(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = ask(capsys, "boards")
    assert status == 0
    assert any(line.startswith("seattle ") for line in text.splitlines())
    status, text, _ = ask(capsys, "boards", "seattle", "--json")
    (board,) = json.loads(text)
    assert board["memory"][0]["start"] == "0x8000000000"
    _, toml, _ = ask(capsys, "boards", "seattle", "--toml")
    assert "0x8000000000" in toml


def test_plan_says_the_decision(capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = ask(capsys, "plan", "seattle", *SEATTLE)
    assert status == 1  # this release has two defects on this board
    assert "T0SZ 24 (40 bits) instead of 25" in text
    assert "slot 1 of the root" in text
    assert "merged-root (Linux 4.1 to 5.9)" in text
    status, text, _ = ask(capsys, "plan", "seattle", *SEATTLE, "--json")
    plan = json.loads(text)
    assert plan["idmap"] == {
        "t0sz": 24,
        "extension": "extra level",
        "slot": 1,
        "levels": 4,
        "why_not": None,
    }
    assert plan["chosen"]["strategy"] == "merged-root"


@pytest.mark.parametrize(
    ("board", "words", "strategy"),
    [
        ("xgene1", ["--va-bits", "39", "--era", "4.1"], "separate"),
        ("lx2160a", ["--va-bits", "39", "--era", "5.6"], "single-split"),
        ("seattle", ["--va-bits", "39", "--era", "6.1"], "wide-hyp"),
        ("seattle", ["--va-bits", "39", "--era", "6.12"], "always-48"),
    ],
)
def test_the_shipped_strategy_is_chosen(
    capsys: pytest.CaptureFixture[str], board: str, words: list[str], strategy: str
) -> None:
    _, text, _ = ask(capsys, "plan", board, *words, "--json")
    assert json.loads(text)["chosen"]["strategy"] == strategy


def test_the_overlap_of_5_4_is_reported_as_the_kernel_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text, _ = ask(capsys, "plan", "lx2160a", "--va-bits", "39", "--era", "5.4")
    assert status == 1
    assert "0x0-0x22ffffffff" in text
    assert "IDMAP intersecting with HYP VA, unable to continue" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "nothing", "--va-bits", "39", "--era", "4.1"], "no board of that name"),
        (["plan", "seattle", "--va-bits", "40", "--era", "4.1"], "VA_BITS 40: 4K pages allow"),
        (["plan", "seattle", "--va-bits", "39", "--era", "2.6"], "2.6"),
        (
            ["plan", "seattle", "--va-bits", "39", "--era", "4.1", "--image", "0x1000"],
            "not in the RAM",
        ),
        (["plan", "seattle", *SEATTLE, "--strategy", "x"], "must be one of separate"),
        (["build", "/nonexistent"], "No such file"),
        (["prove"], "give one of SCENARIO.toml"),
        (["prove", "--strategy", "merged-root"], "need --board"),
        (["prove", "--code", "x", "--at", "0"], "need --capture"),
        (["run", "--sequence", "x", "--board", "seattle", *SEATTLE], "must be one of enable"),
        (["verify", "/nonexistent"], "No such file"),
    ],
)
def test_bad_use_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status, text, error = ask(capsys, *words)
    assert (status, text) == (2, "")
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("cells", [b"", bytes(8)])
@pytest.mark.parametrize("image", [[], ["--image", "0x80000000"]])
def test_a_board_without_ram(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, cells: bytes, image: list[str]
) -> None:
    """The device tree of a machine whose boot loader fills the memory node in."""
    empty = prop(0, (1).to_bytes(4, "big")), prop(15, (1).to_bytes(4, "big"))
    memory = [node(b"memory@0", prop(27, b"memory\0"), prop(39, cells))] if cells else []
    names = b"#address-cells\0#size-cells\0device_type\0reg\0"
    path = tmp_path / "b.dtb"
    path.write_bytes(blob(node(b"", *empty, *memory) + END, names))
    assert ask(capsys, "boards", str(path))[0] == 0
    status, text, error = ask(capsys, "plan", str(path), "--va-bits", "39", "--era", "6.1", *image)
    assert (status, text, error) == (2, "", "ttbr plan: b: the board has no RAM\n")


def test_the_image_is_put_where_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = ask(capsys, "plan", "altra-2s", "--va-bits", "48", "--era", "5.4")
    assert "image 0x90080000-" in text  # the first window of RAM has 1 MiB


@pytest.mark.parametrize("era", ["3.9", "3.18", "4.0"])
def test_before_4_1_the_id_map_of_seattle_is_out_of_reach(
    capsys: pytest.CaptureFixture[str], era: str
) -> None:
    words = ["seattle", "--va-bits", "39", "--era", era, "--image", "0x8000080000"]
    status, text, error = ask(capsys, "plan", *words)
    assert (status, error) == (1, "")
    assert "PAGE_OFFSET 0xffffffc000000000" in text
    assert "maps 0x0-0x11fffff to 0x8000000000\n" in text
    (line,) = (line.strip() for line in text.splitlines() if "cannot reach" in line)
    assert line.startswith("the ID map cannot reach the image: 0x8000870000 is beyond the 39 bits")
    assert "a translation fault right behind SCTLR_EL1.M=1; needs Linux 4.1 (extra level)" in line
    status, body, _ = ask(capsys, "plan", *words, "--json")
    plan = json.loads(body)
    assert (status, plan["works"]) == (1, False)
    assert plan["idmap"] == {
        "t0sz": 25,
        "extension": "none",
        "slot": None,
        "levels": 3,
        "why_not": line,
    }
    assert ("none: KVM: since Linux 3.11" in text) is (era == "3.9")
    # Whatever EL2 would do.
    assert ask(capsys, "plan", *words, "--strategy", "mmu-off")[0] == 1


@pytest.mark.parametrize("on", ["unicorn", "walk"])
def test_a_kernel_before_4_1_dies_on_seattle(capsys: pytest.CaptureFixture[str], on: str) -> None:
    pytest.importorskip("unicorn", reason="pip install 'ttbr[emulate]' to run on Unicorn")
    words = ["--sequence", "enable", "--board", "seattle", "--va-bits", "39", "--image"]
    words += ["0x8000080000", "--era"]
    status, text, _ = ask(capsys, "run", *words, "4.0", "--on", on, "--json")
    found = json.loads(text)
    death, last = found["death"], found["executed"][-1]
    assert (status, found["reached"], last["text"]) == (1, False, "msr SCTLR_EL1, x5")
    assert death["why"].startswith("Translation fault, level 0")
    assert (death["access"], death["level"]) == ("fetch", 0)
    assert death["far"] == death["pc"] == hex(int(last["pc"], 16) + 4) == "0x8000870020"
    assert ask(capsys, "run", *words, "4.1", "--on", on)[0] == 0


def test_the_proof_says_the_same_of_a_kernel_before_4_1(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sequence", "enable", "--board", "seattle", "--va-bits", "39", "--image"]
    status, text, _ = ask(capsys, "prove", *words, "0x8000080000", "--era", "4.0")
    assert status == 1
    assert "FAULT at #8 isb" in text
    assert "address is outside the 39-bit range of TTBR0_EL1, level 0" in text


def saved_plan(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> Path:
    _, text, _ = ask(capsys, "plan", *words, "--json")
    path = folder / "plan.json"
    path.write_text(text)
    return path


def test_a_plan_is_built_and_read_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = saved_plan(capsys, tmp_path, "seattle", *SEATTLE, "--idmap-text", "0x8000080000")
    tables = tmp_path / "tables.bin"
    status, text, _ = ask(capsys, "build", str(plan), "-o", str(tables), "--json")
    assert status == 0
    registers = json.loads(text)["registers"]
    words = [f"--{name.lower().replace('_', '-')}={value}" for name, value in registers.items()]
    base = ["--base", json.loads(text)["first"]]
    status, text, _ = ask(capsys, "dump", str(tables), *base, *words, "--json")
    assert status == 0
    (half,) = json.loads(text)
    mapped = {(m["va"], m["pa"], m["permissions"]) for m in half["mappings"]}
    assert ("0x8000080000", "0x8000080000", "r-x") in mapped
    assert ("0x4000080000", "0x8000080000", "r-x") in mapped


@pytest.mark.parametrize("suffix", [".bin", ".o", ".S", ".h", ".rs"])
def test_each_form_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str
) -> None:
    regions = tmp_path / "regions.toml"
    regions.write_text(
        '[[region]]\nname = "ram"\nva = 0x40000000\npa = 0x40000000\nsize = 0x200000\n'
    )
    out = tmp_path / f"tables{suffix}"
    status, _, error = ask(capsys, "build", str(regions), "-o", str(out), "--base", "0x50000000")
    assert (status, error) == (0, "")
    assert out.stat().st_size > 0
    status, text, _ = ask(capsys, "build", str(regions), "--estimate")
    assert status == 0
    assert text.startswith("3 tables (12K)")


def test_a_budget_that_is_too_small(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = saved_plan(capsys, tmp_path, "seattle", *SEATTLE)
    status, _, error = ask(capsys, "build", str(plan), "--budget", "3")
    assert status == 2
    assert "needs 15 tables (1 at level 0, " in error
    assert error.endswith("the budget is 3\n")


@pytest.mark.parametrize(
    ("scenario", "status"),
    [("since-4.1", 0), ("before-4.1", 1), ("naive-switch", 1)],
)
def test_prove_and_run_a_scenario(
    capsys: pytest.CaptureFixture[str], scenario: str, status: int
) -> None:
    path = f"examples/seattle/{scenario}.toml"
    assert ask(capsys, "prove", path)[0] == status
    found, text, _ = ask(capsys, "prove", path, "--json")
    assert found == status
    assert (json.loads(text)["verdict"] == "SAFE") is (status == 0)
    pytest.importorskip("unicorn", reason="pip install 'ttbr[emulate]' to run on Unicorn")
    assert ask(capsys, "run", path, "--cold")[0] == status


def test_a_safe_proof_names_its_barriers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--strategy", "merged-root", "--board", "seattle", *SEATTLE]
    status, text, _ = ask(capsys, "prove", *words, "--barriers", "--all-policies")
    assert status == 0
    assert text.startswith("merged-root: SAFE assuming {A-DSB}")
    assert "without A-DSB: UNKNOWN-TLB" in text
    assert "tlbi alle2: without it" in text


def test_verify_on_unicorn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("unicorn", reason="pip install 'ttbr[emulate]' to run on Unicorn")
    plan = saved_plan(capsys, tmp_path, "seattle", *SEATTLE)
    status, text, _ = ask(capsys, "verify", str(plan), "--on", "unicorn")
    assert status == 0
    assert text.splitlines()[-1].split() == ["conclusion", "all", "agree"]


def test_verify_keeps_its_table_when_an_emulator_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = saved_plan(capsys, tmp_path, "seattle", *SEATTLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    status, text, error = ask(capsys, "verify", str(plan), "--on", "qemu")
    assert status == 2
    assert text.startswith("planned ")
    assert "run on qemu       not possible: " in text
    assert error.startswith("ttbr verify: ")
    assert error.count("\n") == 1


def test_a_plan_that_does_not_work_is_a_finding(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = saved_plan(capsys, tmp_path, "lx2160a", "--va-bits", "39", "--era", "5.4")
    status, text, error = ask(capsys, "verify", str(plan))
    assert (status, error) == (1, "")
    assert text.splitlines()[-1].endswith("the plan does not work")


NOTE = "level-skip-v1 is planned with the rules of Linux 5.6, not of 4.1: it needs those of 5.6 to"


@pytest.mark.parametrize("command", ["prove", "run"])
def test_the_rules_of_another_release_are_said(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    if command == "run":
        pytest.importorskip("unicorn", reason="pip install 'ttbr[emulate]' to run on Unicorn")
    words = [command, "--strategy", "level-skip-v1", "--board", "seattle", "--va-bits", "39"]
    status, text, _ = ask(capsys, *words, "--era", "4.1")
    assert status == 0
    assert text.splitlines()[0].startswith(NOTE)
    assert json.loads(ask(capsys, *words, "--era", "4.1", "--json")[1])["note"].startswith(NOTE)
    assert "rules of" not in ask(capsys, *words, "--era", "6.1")[1]
    assert json.loads(ask(capsys, *words, "--era", "6.1", "--json")[1])["note"] is None


def test_a_plan_says_whose_rules_it_follows(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "seattle", *SEATTLE, "--strategy", "level-skip-v1"]
    assert NOTE in ask(capsys, *words)[1]
    assert json.loads(ask(capsys, *words, "--json")[1])["chosen"]["rules"] == "5.6"


@pytest.mark.parametrize("on", ["unicorn", "walk"])
def test_run_vhe(capsys: pytest.CaptureFixture[str], on: str) -> None:
    pytest.importorskip("unicorn", reason="pip install 'ttbr[emulate]' to run on Unicorn")
    words = ["--strategy", "vhe", "--board", "seattle", "--va-bits", "39", "--era", "6.1"]
    status, text, _ = ask(capsys, "run", *words, "--on", on)
    assert status == 0
    assert "reached" in text.splitlines()[-1]


def test_verify_asks_each_emulator_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("unicorn", reason="pip install 'ttbr[emulate]' to run on Unicorn")
    plan = saved_plan(capsys, tmp_path, "seattle", *SEATTLE)
    once = [plan, "--on", "unicorn", "--json"]
    found = process("verify", "-", *once[1:], "--on", "unicorn", input=plan.read_text())
    assert (found.returncode, found.stderr) == (0, "")
    assert [ran["emulator"] for ran in json.loads(found.stdout)["ran"]] == ["unicorn"]
    assert found.stdout == ask(capsys, "verify", *map(str, once))[1]
