"""Memory and registers of a live target: a QEMU whose tables the test put there."""

import time
from pathlib import Path

import pytest

from emulate_qemu import CODE, paused_qemu
from emulate_tables import four_levels, needs_qemu
from test_emulate_gdbstub import answer, packet, stub
from ttbr.arch.faults import Fault
from ttbr.arch.regime import EL2, regime_of
from ttbr.emulate.assembler import words
from ttbr.emulate.gdbstub import connect
from ttbr.emulate.live import LiveTarget
from ttbr.errors import InvalidError, TtbrError
from ttbr.walk import READ, Mapping, translate

TABLES = 0x4040_0000
PATIENCE = 60.0  # seconds that a loaded host may need


def write_registers(values: dict[str, int]) -> str:
    """Assembly that writes system registers: QEMU's stub ignores writes of them."""
    lines = []
    for name, value in values.items():
        lines += [f"movz x0, #{value & 0xFFFF}"]
        lines += [f"movk x0, #{value >> s & 0xFFFF}, lsl #{s}" for s in (16, 32, 48)]
        lines += [f"msr {name.lower()}, x0"]
    return "\n".join([*lines, "1: b 1b"])


@needs_qemu
def test_walk_of_a_running_machine(tmp_path: Path) -> None:
    tables, registers = four_levels(TABLES)
    code = words(write_registers(registers))
    (tmp_path / "code").write_bytes(code)
    (tmp_path / "tables").write_bytes(bytes(tables.memory))
    loaders = [
        text
        for name, at in (("code", CODE), ("tables", TABLES))
        for text in ("-device", f"loader,file={tmp_path / name},addr={at:#x},force-raw=on")
    ]
    with paused_qemu(*loaders) as place:
        with connect(place) as gdb:
            gdb.write_register("pc", CODE)
            gdb.breakpoint(CODE + len(code) - 4)
            gdb.run(5.0)
        with LiveTarget.connect(place) as target:
            found = target.registers
            assert found.el == 3
            assert {name: found.values[name] for name in registers} == registers
            assert found.values["ID_AA64MMFR0_EL1"] & 0xF == 6
            assert target.memory.read(TABLES, 0x4000) == bytes(tables.memory)[:0x4000]
            regime = regime_of(found.values, EL2)
            mapping = translate(target.memory, regime, 0x4000_1234, READ)
            assert isinstance(mapping, Mapping)
            assert mapping.pa == 0x8000_1234
            fault = translate(target.memory, regime, 0x4020_0000, READ)
            assert isinstance(fault, Fault)
            assert fault.level == 2
        # It runs again: the breakpoint is gone with the client that set it.
        with LiveTarget.connect(place) as target:
            assert target.memory.read(TABLES, 8) == bytes(tables.memory)[:8]


@needs_qemu
def test_a_machine_that_has_not_started_stays_so() -> None:
    with paused_qemu("-smp", "2") as place:
        for cpu in (0, 1):
            with LiveTarget.connect(place, cpu=cpu) as target:
                assert target.registers.el == 3
        with connect(place) as gdb:
            assert "prelaunch" in gdb.monitor("info status")
        with pytest.raises(InvalidError, match="no CPU 2"):
            LiveTarget.connect(place, cpu=2)


@needs_qemu
def test_a_machine_goes_on_when_the_client_leaves(tmp_path: Path) -> None:
    """A counter in memory grows between connections, and only there.

    Each connection stops the machine. Its CPU is a thread, which a loaded host may not have run at
    all when the next one comes, so the pauses between them grow.
    """
    (tmp_path / "code").write_bytes(words("1: ldr x1, [x0]\nadd x1, x1, #1\nstr x1, [x0]\nb 1b"))
    loader = ("-device", f"loader,file={tmp_path / 'code'},addr={CODE:#x},force-raw=on")
    with paused_qemu(*loader) as place:
        with connect(place, PATIENCE) as gdb:
            gdb.write_register("pc", CODE)
            gdb.write_register("x0", TABLES)
            gdb.detach()
        counts, pause = [0], 0.01
        deadline = time.monotonic() + PATIENCE
        while len(counts) < 3 and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
            stub = connect(place, PATIENCE)
            with LiveTarget(stub) as target:
                read = target.memory.read(TABLES, 8)
                assert stub.read_memory(TABLES, 8) == read  # not the page that was kept
            count = int.from_bytes(read, "little")
            if count > counts[-1]:
                counts.append(count)
        assert len(counts) == 3, counts


def test_a_stub_without_physical_memory_is_refused() -> None:
    def behave(request: str) -> bytes:
        return packet("" if request.startswith("Qqemu") else answer(request))

    with stub(behave) as place, pytest.raises(TtbrError, match="does not read physical memory"):
        LiveTarget.connect(place, 1.0)


def test_a_target_without_system_registers_is_refused() -> None:
    def behave(request: str) -> bytes:
        if request.startswith("qXfer"):
            return packet('l<reg name="eax" bitsize="32"/>')
        return packet(answer(request))

    with stub(behave) as place, pytest.raises(TtbrError, match="no system registers of an AArch64"):
        LiveTarget.connect(place, 1.0)


def test_a_target_that_drops_the_connection() -> None:
    left = 40

    def behave(request: str) -> bytes | None:
        nonlocal left
        left -= 1
        return packet(answer(request)) if left > 0 else None

    with stub(behave) as place:
        target = LiveTarget.connect(place, 1.0)
        with pytest.raises(TtbrError, match="connection lost"):
            target.memory.read(0, 0x10000)
        target.close()


def test_a_part_of_a_page_that_has_no_more() -> None:
    """A page at the end of the memory cannot be read whole; what is asked for can."""

    def behave(request: str) -> bytes:
        if request.startswith("m"):
            at, size = (int(part, 16) for part in request[1:].split(","))
            return packet("E14" if at + size > 0x800 else "ab" * size)
        return packet(answer(request))

    with stub(behave) as place, LiveTarget.connect(place, 1.0) as target:
        assert target.memory.read(0x100, 8) == b"\xab" * 8
        with pytest.raises(TtbrError, match="0x7fc"):
            target.memory.read(0x7FC, 8)
