"""The QEMU harness: known answers, external aborts, and a clean machine however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulate_tables import four_levels, needs_qemu
from ttbr.emulate import qemu_at
from ttbr.emulate.qemu_at import FREE_RAM, RAM, ExternalAbort, QemuAt, qemu_version
from ttbr.emulate.qemu_process import QemuProcess, sparse_file
from ttbr.errors import InvalidError, TtbrError

pytestmark = needs_qemu

MAPPED = 0xFF << 56 | 0xB80
TRANSLATION_L2, PERMISSION_L3 = 0x80D, 0x81F


def alive(pid: int | None) -> bool:
    """Whether process *pid* exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def gone(pid: int | None, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


@pytest.fixture(scope="module")
def qemu() -> Iterator[QemuAt]:
    with QemuAt() as machine:
        tables, registers = four_levels(FREE_RAM)
        machine.map_pages({FREE_RAM: bytes(tables.memory)})
        machine.load(registers)
        yield machine


def test_at_answers_as_the_tables_say(qemu: QemuAt) -> None:
    vas = [0x4000_0000, 0x4000_1000, 0x4000_2000, 0x4020_0000]
    pas = [MAPPED | 0x8000_0000 + (i << 12) for i in range(4)]
    assert qemu.at("S1E1R", vas) == [*pas[:3], TRANSLATION_L2]
    assert qemu.at("S1E0W", vas) == [PERMISSION_L3, pas[1], PERMISSION_L3, TRANSLATION_L2]
    assert qemu.at("S1E2W", vas) == [pas[0], pas[1], PERMISSION_L3, TRANSLATION_L2]
    assert qemu.at("S1E1RP", vas[:2], pan=True) == [pas[0], PERMISSION_L3]
    assert qemu.at("S1E1RP", vas[:2], pan=False) == pas[:2]
    assert qemu.at("S12E1R", vas[:2]) == pas[:2]
    assert qemu.at("S1E1R", []) == []


def test_a_walk_to_no_memory_is_an_external_abort_and_the_batch_goes_on(qemu: QemuAt) -> None:
    answers = qemu.at("S1E1R", [0x4000_0000, 0x4040_0000, 0x4000_1000])
    assert answers[0] == MAPPED | 0x8000_0000
    assert isinstance(answers[1], ExternalAbort)
    assert answers[1].status == 0b010111  # external abort on a level 3 walk
    assert answers[2] == MAPPED | 0x8000_1000


def test_batches_join(qemu: QemuAt) -> None:
    vas = [0x4000_0000 + (i % 512 << 12) for i in range(qemu_at.BATCH + 3)]
    assert qemu.at("S1E1R", vas) == [MAPPED | va + 0x4000_0000 for va in vas]


def test_registers_are_read_back_and_the_absent_become_zero(qemu: QemuAt) -> None:
    assert qemu.registers(["TTBR0_EL1"]) == {"TTBR0_EL1": FREE_RAM}
    before = qemu.registers(["MAIR_EL1", "TTBR0_EL2"])
    qemu.load({"TTBR0_EL2": 0x1000})
    assert qemu.registers(["MAIR_EL1", "TTBR0_EL2"]) == {"MAIR_EL1": 0, "TTBR0_EL2": 0x1000}
    _, registers = four_levels(FREE_RAM)
    qemu.load(registers)
    assert qemu.registers(["MAIR_EL1", "TTBR0_EL2"]) == before


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda q: q.at("S1E4R", [0]), "S1E4R"),
        (lambda q: q.map_pages({RAM: bytes(4096)}), "0x40000000"),
        (lambda q: q.read(0, 8), "not in the RAM"),
        (lambda q: q.write(RAM + (64 << 20) - 4, bytes(8)), "not in the RAM"),
    ],
)
def test_what_cannot_be_is_refused(
    qemu: QemuAt, wrong: Callable[[QemuAt], object], text: str
) -> None:
    with pytest.raises(InvalidError, match=text):
        wrong(qemu)


def test_a_register_that_the_cpu_lacks_is_named() -> None:
    with QemuAt("cortex-a57") as machine:
        with pytest.raises(TtbrError, match="TTBR1_EL2"):
            machine.load({"TTBR1_EL2": 0x1000})
        machine.load({"TTBR0_EL2": 0x1000})  # and the machine goes on
        assert machine.registers(["TTBR0_EL2"]) == {"TTBR0_EL2": 0x1000}


def test_ram_above_512_gb_is_sparse() -> None:
    with QemuAt(ram=520 << 30) as machine:
        base = 1 << 39
        tables, registers = four_levels(base)
        machine.map_pages({base: bytes(tables.memory)})
        machine.load(registers)
        assert machine.at("S1E2R", [0x4000_0000]) == [MAPPED | 0x8000_0000]


def test_no_process_is_left_after_an_exception() -> None:
    machine = QemuAt()
    pid = machine.pid

    def interrupted() -> None:
        with machine:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gone(pid)
    assert machine.pid is None
    with pytest.raises(TtbrError, match="closed"):
        machine.at("S1E1R", [0])


HOLDER = """
import sys, time
from ttbr.emulate.qemu_at import QemuAt
machine = QemuAt()
print(machine.pid, flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "number"),
    [("time.sleep(60)", signal.SIGKILL), ("time.sleep(60)", signal.SIGINT), ("sys.exit()", None)],
    ids=["killed", "interrupted", "exits without close"],
)
def test_no_process_is_left_when_its_owner_ends(end: str, number: int | None) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(end=end)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    if number is not None:
        assert alive(pid)
        owner.send_signal(number)
    owner.wait(10)
    owner.stdout.close()
    assert gone(pid)


def test_a_qemu_that_dies_is_reported_with_its_last_words() -> None:
    """QEMU 7.2 aborts when a level -1 entry is a block without its access flag (quirk Q1)."""
    with QemuAt() as machine:
        machine.map_pages({FREE_RAM: (0b01).to_bytes(8, "little") * 512})
        machine.load({"TTBR0_EL1": FREE_RAM, "TCR_EL1": 12 | 1 << 59 | 6 << 32, "SCTLR_EL1": 1})
        pid = machine.pid
        if qemu_version() >= (8,):
            pytest.skip("this QEMU may not have quirk Q1")
        with pytest.raises(TtbrError, match=r"QEMU died .*SIGABRT"):
            machine.at("S1E1R", [0])
    assert gone(pid)


def test_a_machine_that_does_not_answer_is_killed() -> None:
    with pytest.raises(TtbrError, match="no answer in 0 s"):
        QemuAt(timeout=0)


def test_more_ram_than_a_file_can_have() -> None:
    with pytest.raises(TtbrError, match="4611686018427387904 bytes of RAM"):
        QemuAt(ram=1 << 62)


def test_a_cpu_that_qemu_does_not_know() -> None:
    with pytest.raises(TtbrError, match="nonsense"):
        QemuAt("nonsense")


def fake(folder: Path, text: str) -> str:
    program = folder / "qemu"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo QEMU emulator version 6.2.0", "is version 6.2.0: 7.0 or later"),
        ("echo hello", "no version in 'hello"),
        (
            'case "$*" in --version) echo "version 7.2.1";; *) echo no room >&2; exit 3;; esac',
            r"died \(status 3\): no room",
        ),
    ],
)
def test_a_qemu_that_cannot_be_used(tmp_path: Path, script: str, text: str) -> None:
    with pytest.raises(TtbrError, match=text):
        QemuAt(program=fake(tmp_path, script))


def test_the_child_of_a_wrapper_script_is_killed_too(tmp_path: Path) -> None:
    """QEMU may be started by a script that waits for it."""
    script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
    process = QemuProcess(fake(tmp_path, script), [], [])
    end = time.monotonic() + 5
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    child = int((tmp_path / "child").read_text())
    assert alive(child)
    process.close()
    assert gone(child)


def test_the_limits_of_the_system_are_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr("os.truncate", too_large)
    with pytest.raises(TtbrError, match=r"^4096 bytes of RAM: File too large$"):
        sparse_file(4096)


def test_without_qemu_the_error_says_how_to_get_it() -> None:
    with pytest.raises(TtbrError, match="apt-get install qemu-system-arm"):
        QemuAt(program="no-such-qemu")
