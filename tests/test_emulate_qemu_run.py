"""Code runs on whole machines: above 512 GB on virt, at 1 TB on sbsa-ref, and a clean end."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import emulate_jobs
from emulate_jobs import EL1_RUNS, LOW, SBSA, SEATTLE, enable_job, strategy_jobs
from emulate_tables import needs_qemu
from ttbr.emulate import qemu_run
from ttbr.emulate.jobs import el1_job, text_job
from ttbr.emulate.qemu_process import QemuProcess, sparse_file
from ttbr.emulate.qemu_run import SBSA_REF, VIRT, run
from ttbr.emulate.run import Job
from ttbr.errors import InvalidError, TtbrError, UnsupportedError
from ttbr.linux.sequences import sequence

pytestmark = needs_qemu

BASE = 0x80_8000_0000


@pytest.mark.parametrize(("machine", "base"), [(VIRT, BASE), (SBSA_REF, SBSA + 0x20_0000)])
def test_a_39_bit_id_map_dies_right_after_the_mmu_is_on(
    machine: qemu_run.Machine, base: int
) -> None:
    """The failure that the extra level was made for (Linux 4.1, dd006da21646)."""
    death = run(enable_job(base, 39), machine).death
    assert death is not None
    assert death.pc == death.far == base + 0x101C
    assert (death.access, death.status) == ("fetch", 0b000100)  # Translation fault, level 0
    outcome = run(enable_job(base, 48), machine)
    assert outcome.reached
    assert all(e.pa == e.pc for e in outcome.executed)
    assert [e.state.mmu for e in outcome.executed] == [False] * 7 + [True] * 2
    assert outcome.executed[-1].state.t0sz == 16
    assert outcome.registers["TTBR0_EL2"] == base + 0x10000


def machine_for(board: str) -> qemu_run.Machine:
    return SBSA_REF if board.startswith("sbsa") else VIRT


FAST = ("seattle 4K/39-merged-root", "sbsa 64K/42-level-skip-v1", "seattle 4K/39-mmu-off")


@pytest.mark.parametrize(
    ("board", "name"),
    [
        pytest.param(b, n, id=i, marks=() if i in FAST else pytest.mark.slow)
        for b, n, i in ((b, n, f"{b}-{n}") for b, n in strategy_jobs())
    ],
)
def test_every_strategy_arrives(board: str, name: str) -> None:
    job = emulate_jobs.strategy_job(board, name)
    outcome = run(job, machine_for(board))
    assert outcome.death is None
    assert [e.pa for e in outcome.executed] == [
        job.entry + 4 * i for i in range(len(outcome.executed))
    ]


@pytest.mark.parametrize("board", ["seattle 4K/39", "sbsa 4K/39"])
def test_the_literal_level_skip_dies(board: str) -> None:
    outcome = run(emulate_jobs.strategy_job(board, "level-skip"), machine_for(board))
    assert outcome.death is not None
    assert outcome.death.access == "fetch"


def test_a_naive_switch_lives_on_stale_entries() -> None:
    """QEMU's TLB is warm: what only a cold TLB shows, it does not."""
    outcome = run(emulate_jobs.naive_job())
    assert outcome.reached
    assert outcome.executed[1].pa is None  # fetched, though the tables no longer map it


@pytest.mark.slow
@pytest.mark.parametrize("base", [SEATTLE, LOW])
@pytest.mark.parametrize(("name", "release", "before", "after"), EL1_RUNS)
def test_every_el1_routine_arrives(
    name: str, release: str, before: str, after: str, base: int
) -> None:
    tables = emulate_jobs.el1(release, base)
    routine = sequence(name, tables.config.release)
    job = el1_job(name, tables, routine, getattr(tables, before), getattr(tables, after))
    outcome = run(job)
    assert outcome.death is None
    assert {e.state.el for e in outcome.executed} == {1}


def test_resume_before_4_4_loses_an_extended_id_map() -> None:
    tables = emulate_jobs.el1("4.3", SEATTLE)
    routine = sequence("resume", tables.config.release)
    death = run(el1_job("resume", tables, routine, tables.idmap, tables.idmap)).death
    assert death is not None
    assert death.access == "fetch"


CODE = 0x4080_1000


def bare(text: str, el: int = 2, **registers: int) -> Job:
    """Code at `CODE` with the MMU off."""
    return text_job("bare", text, CODE, {CODE: bytes(0x1000)}, registers, el)


@pytest.mark.parametrize(
    ("text", "why", "access"),
    [
        ("ldr x1, [x0, #8]", "no memory there", "load"),
        ("str x1, [x0], #8", "no memory there", "store"),
        ("br x0\nnop", "no memory there", "fetch"),
        ("svc #0", "SVC", ""),
        ("1: b 1b", "it branches to itself", ""),
    ],
)
def test_ends_that_are_no_translation_fault(text: str, why: str, access: str) -> None:
    outcome = run(bare(f"nop\n{text}\nnop", x0=0x8_0000_0000_0000))
    death = outcome.death
    assert death is not None
    assert (death.why, death.access) == (why, access)
    if access:
        assert death.far is not None
        assert death.far & ~8 == 0x8_0000_0000_0000


def test_an_undefined_instruction() -> None:
    job = bare("nop\nnop\nnop")
    udf = job.memory[CODE][:4] + bytes(4) + job.memory[CODE][8:]
    death = run(replace(job, memory={**job.memory, CODE: udf})).death
    assert death is not None
    assert (death.pc, death.why) == (CODE + 4, "UNDEFINED instruction")


def test_a_register_that_the_exception_level_lacks_refutes_nothing() -> None:
    with pytest.raises(UnsupportedError, match="msr SCTLR_EL3, x0: it has no such register"):
        run(bare("nop\nmsr sctlr_el3, x0\nnop"))


def test_registers_reach_the_job() -> None:
    values = {"x30": 0x1234_5678_9ABC_DEF0, "x0": 7, "sp": 0x4080_1800, "TPIDR_EL2": 5}
    text = "mrs x1, tpidr_el2\n sub x1, x1, #5\n cbnz x1, 1f\n sub x0, x0, #7\n cbnz x0, 1f\n"
    text += " ldr x2, =0x123456789abcdef0\n sub x2, x2, x30\n cbnz x2, 1f\n str x30, [sp]\n b 2f\n"
    text += "1: b 1b\n2: nop\n"
    job = text_job("registers", text, CODE, {CODE: bytes(0x2000)}, values, 2)
    code = job.memory[CODE]
    until = CODE + 4 * 11
    assert run(replace(job, until=until, memory={CODE: code})).reached


def test_a_program_that_does_not_end() -> None:
    job = replace(bare("1: nop\n b 1b\nnop"), limit=20)
    death = run(job).death
    assert death is not None
    assert death.why == "still running after 20 instructions"
    death = run(replace(job, limit=10**6), timeout=0.1).death
    assert death is not None
    assert death.why.startswith("still running after")


def test_wfi_completes() -> None:
    """It may complete at any time, and no interrupt will come."""
    outcome = run(bare("wfi\nnop"))
    assert outcome.reached
    assert [step.text for step in outcome.executed] == ["wfi", "nop", "nop"]


# What cannot run


def test_memory_below_the_ram_of_the_machine() -> None:
    with pytest.raises(InvalidError, match=r"0x80000000: the RAM of sbsa-ref begins at 0x10000000"):
        run(enable_job(0x8000_0000 - 0x1000, 48), SBSA_REF)


def test_a_register_that_the_cpu_lacks() -> None:
    with pytest.raises(TtbrError, match="exception before the job, in msr TTBR1_EL2"):
        run(bare("nop", TTBR1_EL2=0x1000), cpu="cortex-a57")


def test_a_cpu_that_qemu_does_not_know() -> None:
    with pytest.raises(TtbrError, match=r"died \(status 1\): .*nonsense"):
        run(bare("nop"), cpu="nonsense")


def test_without_qemu() -> None:
    with pytest.raises(TtbrError, match="apt-get install qemu-system-arm"):
        run(bare("nop"), program="no-such-qemu")


def test_a_silent_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_run, "ANSWER", 0.3)
    program = tmp_path / "qemu"
    program.write_text(
        '#!/bin/sh\ncase "$*" in --version) echo "version 7.2.1";; *) exec sleep 60;; esac\n'
    )
    program.chmod(0o755)
    with pytest.raises(TtbrError, match=r"no answer in 0\.3 s"):
        run(bare("nop"), program=str(program))


def test_no_room_for_the_sparse_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TtbrError, match=f"{1 << 70} bytes of RAM"):
        sparse_file(1 << 70)
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "truncate", full)
    with pytest.raises(TtbrError, match="No space left on device"):
        run(bare("nop"))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_no_room_when_the_job_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(TtbrError, match=r"RAM of QEMU virt .* No space left on device"):
        run(bare("nop"))


# Nothing is left


def alive(pid: int) -> bool:
    """Whether process *pid* exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


def test_no_process_and_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []
    start = QemuProcess.__init__

    def spy(self: QemuProcess, *arguments: object) -> None:
        start(self, *arguments)  # type: ignore[arg-type]
        pids.append(self.pid)

    monkeypatch.setattr(QemuProcess, "__init__", spy)
    before, shared = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    run(bare("nop"))
    with pytest.raises(TtbrError):
        run(bare("nop", TTBR1_EL2=1), cpu="cortex-a57")

    def interrupted(self: object, timeout: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(qemu_run._Qemu, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(bare("nop"))
    assert len(pids) == 3
    assert all(pid is not None and gone(pid) for pid in pids)
    assert len(os.listdir("/proc/self/fd")) == before
    assert set(os.listdir("/dev/shm")) == shared


HOLDER = """
import sys, time
from ttbr.emulate import qemu_run
from ttbr.emulate.run import Job
start = qemu_run.QemuProcess.__init__
def spy(self, *arguments):
    start(self, *arguments)
    print(self.pid, flush=True)
qemu_run.QemuProcess.__init__ = spy
spin = Job("spin", {0x40801000: bytes.fromhex("1f2003d5ffffff17")}, {}, 2, 0x40801000, 0, limit=10**9)
qemu_run.run(spin, timeout=60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_is_left_when_its_owner_dies(number: int) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    time.sleep(0.3)
    assert alive(pid)
    owner.send_signal(number)
    owner.wait(10)
    owner.stdout.close()
    assert gone(pid)


def test_a_qemu_that_dies_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: qemu_run._Qemu, *_: object) -> None:
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self._read("pc")

    monkeypatch.setattr(qemu_run._Qemu, "_steps", killed)
    with pytest.raises(TtbrError, match=r"QEMU virt -cpu max died \(signal SIGKILL\)"):
        run(bare("nop"))
