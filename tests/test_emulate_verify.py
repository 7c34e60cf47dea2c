"""A plan verified: the rows of the table, plans that do not work, emulators that break down."""

from dataclasses import replace
from pathlib import Path

import pytest

from commands import ttbr
from emulate_tables import needs_qemu, needs_unicorn
from ttbr.boards import Board, load
from ttbr.emulate import verify as module
from ttbr.emulate.differential import Difference, Report
from ttbr.emulate.planned import planned_job
from ttbr.emulate.run import Death, Outcome
from ttbr.emulate.scenarios import Question
from ttbr.emulate.verify import Ran, Verified, verify
from ttbr.errors import TtbrError
from ttbr.linux.config import KernelConfig, configure
from ttbr.report.verified import plain_verified, text_verified


def asked(board: str, release: str, image: int, **more: bool) -> tuple[KernelConfig, Board]:
    return configure(release, "4K", 39, image, **more), load(board)


def rows(verified: Verified) -> dict[str, str]:
    """Title -> text of the table."""
    lines = text_verified(verified).splitlines()
    return {line[:18].rstrip(): line[18:] for line in lines if line[:18].strip()}


@needs_unicorn
@pytest.mark.parametrize("name", ["unicorn", pytest.param("qemu", marks=needs_qemu)])
def test_a_host_is_run_and_probed(name: str) -> None:
    said: list[str] = []
    config, board = asked("qemu-virt", "6.1", 0x4020_0000, vhe=True)
    found = verify("vhe", config, board, [name], said.append)
    table = rows(found)
    assert "reached" in table[f"run on {name}"]
    assert table[f"probed on {name}"].endswith("AT, 0 differ")
    assert table["conclusion"] == "all agree"
    assert "mapped" not in table
    assert found.works
    assert said[0] == "proving"
    assert [ran.emulator for ran in found.ran] == [name]


@needs_unicorn
@pytest.mark.parametrize("name", ["unicorn", pytest.param("qemu", marks=needs_qemu)])
def test_an_id_map_that_does_not_reach_the_image_is_seen_to_fail(name: str) -> None:
    """AMD Seattle before Linux 4.1: the kernel dies behind SCTLR_EL1.M = 1."""
    config, board = asked("seattle", "4.0", 0x80_0008_0000)
    found = verify("separate", config, board, [name])
    table = rows(found)
    assert "which does not work: the ID map needs 40 bits" in table["planned"]
    assert table["proved"] == "enable: UNSAFE (FAULT)"
    assert "Translation fault, level 0" in table[f"run on {name}"]
    assert table["conclusion"] == "no contradiction, but the plan does not work"
    assert not found.works
    assert found.contradictions == ()


def test_a_kernel_that_refuses_by_itself() -> None:
    config, board = asked("lx2160a", "5.4", 0x8008_0000)
    found = verify("single-split", config, board)
    table = rows(found)
    assert "IDMAP intersecting with HYP VA" in table["planned"]
    assert table["proved"].startswith("nothing: ")
    assert not found.works
    assert plain_verified(found)["verdict"] is None


@needs_unicorn
def test_what_the_cpu_cannot_be_asked_is_said() -> None:
    config = configure("6.12", "4K", 52, 0x4020_0000, pa_bits=52, va52=True)
    table = rows(verify("always-48", config, load("qemu-virt"), ["unicorn"]))
    assert "reached" in table["run on unicorn"]
    assert table["probed on unicorn"].startswith("not possible: Unicorn: ")


@needs_unicorn
def test_an_emulator_that_breaks_down_takes_no_row_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise TtbrError("QEMU died (signal SIGKILL): it said nothing")

    monkeypatch.setattr(module, "_on_qemu", dies)
    monkeypatch.setattr(module, "_missing", lambda _: "")
    config, board = asked("seattle", "4.1", 0x80_0008_0000)
    found = verify("merged-root", config, board)
    table = rows(found)
    assert "reached" in table["run on unicorn"]
    assert table["run on qemu"] == "not possible: QEMU died (signal SIGKILL): it said nothing"
    assert [ran.failed for ran in found.ran] == [False, True]
    assert replace(found, ran=()).works


@pytest.fixture
def good() -> Verified:
    """A plan that works, proved safe and mapped as planned, run nowhere."""
    config, board = asked("seattle", "4.1", 0x80_0008_0000)
    found = verify("merged-root", config, board, [])
    assert (found.works, found.contradictions, found.wrong) == (True, (), ())
    return found


def ran(good: Verified, dies: bool, differences: int = 0) -> Ran:
    job = planned_job("merged-root", *asked("seattle", "4.1", 0x80_0008_0000))
    death = Death(job.entry, "an abort") if dies else None
    other = Difference(Question("EL2", "S1E2R", {}, {}, []), 0, 1, 0, 0, "")
    report = Report("tables", 0, probes=10, differences=[other] * differences)
    return Ran("unicorn", Outcome(job, "Unicorn", (), death, {}), None, (report,))


def test_a_death_where_the_proof_says_safe_is_a_contradiction(good: Verified) -> None:
    found = replace(good, ran=(ran(good, dies=True),))
    assert found.contradictions == ("proved SAFE assuming {A-DSB}, but on unicorn it died",)
    assert rows(found)["conclusion"] == found.contradictions[0]
    assert replace(good, ran=(ran(good, dies=False),)).contradictions == ()


def test_probes_that_differ_are_a_contradiction(good: Verified) -> None:
    found = replace(good, ran=(ran(good, dies=False, differences=2),))
    assert found.contradictions == ("2 probes on unicorn differ from the walk",)
    assert rows(found)["probed on unicorn"] == "10 AT, 2 differ"


def test_tables_that_map_something_else_are_a_contradiction(good: Verified) -> None:
    found = replace(good, wrong=("0x1000 is not mapped",))
    assert found.contradictions == ("the tables do not map what was planned",)
    assert rows(found)["mapped"] == "0x1000 is not mapped"


def test_a_contradiction_is_a_finding(
    good: Verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["plan", "seattle", "--va-bits", "39", "--era", "4.1", "--json"]
    (plan := tmp_path / "plan.json").write_text(ttbr(*words).out)
    for found, status in ((good, 0), (replace(good, wrong=("x",)), 1)):
        monkeypatch.setattr(module, "verify", lambda *_, found=found: found)
        assert ttbr("verify", plan).status == status
