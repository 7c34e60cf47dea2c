"""A stopped target behind a GDB stub as a source: its physical memory and system registers.

QEMU (``-gdb tcp::1234``) describes its system registers and reads physical memory; a stub that does
not do both is refused. Two things to know of QEMU: it stops when a client connects, and memory that
is not there reads as zero, where a CPU would take an external abort.
"""

import re
from types import TracebackType
from typing import Self

from ttbr.arch.registers import REGISTERS, arm_name
from ttbr.emulate.gdbstub import GdbStub, connect
from ttbr.errors import InvalidError, MemoryFault, TtbrError
from ttbr.memory.registerfile import RegisterFile

__all__ = ["LiveMemory", "LiveTarget"]

PAGE = 4096


class LiveMemory:
    """Physical memory of a stopped target. Pages are read once and kept."""

    def __init__(self, stub: GdbStub) -> None:
        self._stub = stub
        self._pages: dict[int, bytes] = {}
        stub.physical(True)

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at physical *address*; `MemoryFault` where the stub says there are none."""
        data = b""
        while len(data) < size:
            at = address + len(data)
            page, wanted = at & -PAGE, size - len(data)
            try:
                part = self._page(page)[at - page : at - page + wanted]
            except MemoryFault:
                part = self._stub.read_memory(at, min(wanted, page + PAGE - at))
            data += part
        return data

    def _page(self, page: int) -> bytes:
        if page not in self._pages:
            self._pages[page] = self._stub.read_memory(page, PAGE)
        return self._pages[page]


class LiveTarget:
    """A target behind *stub*, stopped as long as this lives. Use it as a context manager.

    `memory` is its physical memory; `registers` its system registers by Arm name as they are now,
    with PSTATE. *cpu* picks a CPU of several.
    """

    def __init__(self, stub: GdbStub, cpu: int = 0) -> None:
        self._stub = stub
        try:
            if cpu and stub.request(f"Hg{cpu + 1:x}") != "OK":
                raise InvalidError(f"{stub}: it has no CPU {cpu}")
            self.memory = LiveMemory(stub)
            self.registers = self._registers()
            # QEMU started with -S: there is nothing to resume.
            self._waits = "prelaunch" in self._status()
        except BaseException:
            stub.close()
            raise

    @classmethod
    def connect(cls, place: str, timeout: float = 5.0, cpu: int = 0) -> Self:
        """The target whose stub listens at ``HOST:PORT``; no answer may take *timeout* seconds."""
        return cls(connect(place, timeout), cpu)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the target run again, unless it had not started, and disconnect."""
        if not self._waits:
            self._stub.detach()
        self._stub.close()

    def _status(self) -> str:
        try:
            return self._stub.monitor("info status")
        except TtbrError:
            return ""

    def _registers(self) -> RegisterFile:
        values, pstate = {}, None
        for name in self._stub.registers:
            arm = arm_name(name)
            if arm in REGISTERS:
                values[arm] = self._stub.read_register(name)
            elif re.fullmatch("cpsr|pstate", name):
                pstate = self._stub.read_register(name) & 0xFFFF_FFFF
        if not any(name.startswith("TTBR") for name in values):
            raise TtbrError(f"{self._stub}: it has no system registers of an AArch64 CPU")
        return RegisterFile(values, pstate)
