"""Run a job on a whole machine that QEMU emulates, one instruction at a time.

The machine starts at EL3 in a few instructions of our own, made for the job: they write its system
registers, load x0 to x30 and go to its exception level with ERET. From there on the GDB stub steps
and reads the state. The job's code and tables are where the job says, so code above 512 GB runs
there; RAM up to it is sparse.
"""

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ttbr.arch.faults import fault_of_status
from ttbr.arch.registers import arm_name
from ttbr.emulate import encode
from ttbr.emulate.gdbstub import GdbStub
from ttbr.emulate.qemu_at import PROGRAM, qemu_version
from ttbr.emulate.qemu_process import QemuProcess, sparse_file
from ttbr.emulate.run import PAGE, Death, Executed, Job, Outcome, State, blocks_of
from ttbr.emulate.unicorn_at import HCR_EL2_RW, PSTATE, SCR_EL3, TRANSLATION_REGISTERS
from ttbr.errors import InvalidError, TtbrError, UnsupportedError

__all__ = ["SBSA_REF", "VIRT", "Machine", "run"]

ANSWER = 20.0  # seconds for any answer of QEMU, its start included
BOOT_SIZE = 1 << 16
MIB = 1 << 20
VECTOR_SPX = 0x200
E2H = 1 << 34
WFI = 0xD503207F
SYSTEM = 0xD5000000  # MSR, MRS, SYS and the hints: bits 31:22
# ESR_ELx.EC (D24.2.40): the access that an abort refused.
FETCHES, ACCESSES = (0x20, 0x21), (0x24, 0x25)
CLASSES = {
    0x00: "UNDEFINED instruction",
    0x0E: "illegal execution state",
    0x15: "SVC",
    0x16: "HVC",
    0x17: "SMC",
    0x18: "trapped system instruction",
    0x22: "PC alignment fault",
    0x26: "SP alignment fault",
    0x3C: "BRK",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of QEMU: where its RAM begins, and the arguments that it needs."""

    name: str
    ram: int
    arguments: tuple[str, ...]


VIRT = Machine(
    "virt",
    0x4000_0000,
    ("-machine", "virt,virtualization=on,secure=on,gic-version=3,memory-backend=ram"),
)
SBSA_REF = Machine(
    "sbsa-ref",
    0x100_0000_0000,
    ("-machine", "sbsa-ref,memory-backend=ram", "-global", "VGA.romfile="),
)


def run(
    job: Job,
    machine: Machine = VIRT,
    cpu: str = "max",
    timeout: float = 20.0,
    program: str = PROGRAM,
) -> Outcome:
    """Run *job* on *machine* with ``-cpu`` *cpu*; a run of more than *timeout* seconds has died.

    `InvalidError` for memory that the machine does not have; `TtbrError` when QEMU is missing, too
    old, dies or does not answer. It is gone when this returns.
    """
    qemu_version(program)
    with _Qemu(job, machine, cpu, program) as qemu:
        return qemu.run(timeout)


class _Boot:
    """The instructions that prepare *job*, from *base* on."""

    def __init__(self, job: Job, base: int) -> None:
        code = self.code = encode.Code(base)
        system = {"SCR_EL3": SCR_EL3} | job.system
        system["HCR_EL2"] = job.registers.get("HCR_EL2", 0) | HCR_EL2_RW
        if "sp" in job.registers:
            system[f"SP_EL{job.el}"] = job.registers["sp"]
        system |= {"ELR_EL3": job.entry, "SPSR_EL3": PSTATE[job.el]}
        for name, value in system.items():
            code.label(f"msr {name}")
            code.emit(*encode.mov_immediate(0, value), encode.msr(name, 0))
        code.label("flush")
        code.emit(*(encode.system(f"TLBI ALLE{el}") for el in (1, 2, 3)), encode.dsb(), encode.ISB)
        for number in range(31):
            code.emit(*encode.mov_immediate(number, job.general.get(number, 0)))
        code.emit(encode.ERET)


class _Qemu:
    """QEMU, stopped at the first instruction of *job*."""

    def __init__(self, job: Job, machine: Machine, cpu: str, program: str) -> None:
        self.job, self.machine = job, machine
        self.name = f"QEMU {machine.name} -cpu {cpu}"
        blocks = blocks_of(job.memory)
        for address in blocks:
            if address < machine.ram:
                raise InvalidError(
                    f"{job.name}: memory at {address:#x}: the RAM of {machine.name} begins at "
                    f"{machine.ram:#x}"
                )
        base = self._free(blocks)
        boot = _Boot(job, base)
        end = max([base + BOOT_SIZE, *(a + len(data) for a, data in blocks.items())])
        size = -(-(end - machine.ram) // MIB) * MIB
        self.ram = sparse_file(size)
        self.pages: dict[int, int] = {}
        self.process: QemuProcess | None = None
        self.gdb: GdbStub | None = None
        try:
            self._start(program, cpu, size)
            # The device tree is at the beginning of RAM since the reset; so the job comes after.
            for address, data in blocks.items():
                self._write(address, data)
            self._write(base, bytes(boot.code))
            self._enter(boot)
        except BaseException:
            self.close()
            raise

    def _free(self, blocks: Mapping[int, bytearray]) -> int:
        """A place for the boot code."""
        base = self.machine.ram + 2 * MIB
        for address in sorted(blocks):
            if address < base + BOOT_SIZE and base < address + len(blocks[address]):
                base = -(-(address + len(blocks[address])) // BOOT_SIZE) * BOOT_SIZE
        return base

    def _start(self, program: str, cpu: str, size: int) -> None:
        ours, theirs = socket.socketpair()
        file = f"memory-backend-file,id=ram,size={size},mem-path=/dev/fd/{self.ram},share=on"
        arguments = [
            *self.machine.arguments,
            *(
                "-smp",
                "1",
                "-cpu",
                cpu,
                "-m",
                f"{size >> 10}K",
                "-object",
                file,
                "-S",
                "-nodefaults",
            ),
            *("-display", "none", "-serial", "none", "-monitor", "none"),
            *("-chardev", f"socket,id=gdb,fd={theirs.fileno()}", "-gdb", "chardev:gdb"),
        ]
        try:
            self.process = QemuProcess(program, arguments, (self.ram, theirs.fileno()))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            self.gdb = GdbStub(ours, ANSWER, self.name)
        except TtbrError as error:
            raise self._died() or error from None
        self.names = {arm_name(name): name for name in self.gdb.registers}

    def _died(self) -> TtbrError | None:
        """The error to raise when it is QEMU's end that broke the connection."""
        end = self.process.end(0.2) if self.process is not None else None
        return None if end is None else TtbrError(f"{self.name} {end}")

    def _write(self, address: int, data: bytes | bytearray) -> None:
        try:
            os.pwrite(self.ram, data, address - self.machine.ram)
        except OSError as error:
            raise TtbrError(f"RAM of {self.name} at {address:#x}: {error.strerror}") from None

    def _enter(self, boot: _Boot) -> None:
        assert self.gdb is not None
        places = (self.job.entry, VECTOR_SPX)  # VBAR_EL3 is 0
        for place in places:
            self.gdb.breakpoint(place)
        self.gdb.write_register("pc", boot.code.base)
        self.gdb.run(ANSWER)
        if (self._read("cpsr") >> 2 & 3) != self.job.el:
            where = boot.code.nearest(self._read("ELR_EL3"))
            raise TtbrError(f"{self.name}: exception before the job, in {where}")
        for place in places:
            self.gdb.breakpoint(place, on=False)

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
        """Kill QEMU; nothing of it remains. Safe to call twice."""
        if self.gdb is not None:
            self.gdb.close()
        if self.process is not None:
            self.process.close()
        if self.ram >= 0:
            os.close(self.ram)
            self.ram = -1

    def _read(self, name: str) -> int:
        assert self.gdb is not None
        return self.gdb.read_register(self.names.get(name, name))

    def _state(self) -> State:
        el = self._read("cpsr") >> 2 & 3
        own = max(el, 1)
        two = own == 1 or (own == 2 and bool(self._read("HCR_EL2") & E2H))
        return State(
            el,
            bool(self._read(f"SCTLR_EL{own}") & 1),
            self._read(f"TTBR0_EL{own}"),
            self._read(f"TTBR1_EL{own}") if two else None,
            self._read(f"TCR_EL{own}"),
        )

    def _at(self, pc: int) -> Executed:
        """The instruction at *pc*, by QEMU's own translation of it."""
        assert self.gdb is not None
        found = re.search(r"gpa: (0x[0-9a-f]+)", self.gdb.monitor(f"gva2gpa {pc:#x}"))
        page, word = pc & -PAGE, b""
        pa = None if found is None else int(found[1], 16)
        if pa is not None:
            self.pages[page] = pa & -PAGE
        # Where the tables have no entry any more, the TLB has the one of before.
        at = self.pages.get(page, -1) | pc & PAGE - 1
        if at >= self.machine.ram:
            word = os.pread(self.ram, 4, at - self.machine.ram)
        return Executed(pc, int.from_bytes(word, "little"), pa, self._state())

    def run(self, timeout: float) -> Outcome:
        """Step to the end of the job."""
        executed: list[Executed] = []
        try:
            death = self._steps(executed, time.monotonic() + timeout)
            names = [name for name in TRANSLATION_REGISTERS if name in self.names]
            registers = {name: self._read(name) for name in names} | {"PC": self._read("pc")}
        except TtbrError as error:
            raise self._died() or error from None
        return Outcome(self.job, self.name, tuple(executed), death, registers)

    def _steps(self, executed: list[Executed], deadline: float) -> Death | None:
        assert self.gdb is not None
        pc = self._read("pc")
        while len(executed) < self.job.limit and time.monotonic() < deadline:
            now = self._at(pc)
            returned = self.job.calls.get(pc, 0) is None
            # WFI may complete at any time, and no interrupt will come here.
            if now.word == WFI or returned:
                self.gdb.write_register("pc", pc + 4)
            else:
                self.gdb.step()
            after = self._read("pc")
            death = self._exception(now, after)
            if death is None or death.access != "fetch":
                executed.append(now)
                if pc == self.job.until:
                    return None
            meant = self.job.faults if death is not None and death.access else self.job.calls
            if death is not None and not (death.access in ("fetch", "") and pc in meant):
                return death
            if death is None and after == pc:
                return Death(pc, "it branches to itself")
            pc = after
        return Death(pc, f"still running after {len(executed)} instructions")

    def _exception(self, now: Executed, after: int) -> Death | None:
        """What went wrong at *now* when the step took an exception; None when it did not.

        `UnsupportedError` for a system register that this CPU lacks: that refutes nothing.
        """
        pc = now.pc
        el = self._read("cpsr") >> 2 & 3
        if el == 0:
            return None
        offset = after - self._read(f"VBAR_EL{el}")
        if not 0 <= offset < 0x800 or offset % 0x80:
            return None
        if self._read(f"ELR_EL{el}") not in (pc, pc + 4):
            return None
        esr, far = self._read(f"ESR_EL{el}"), self._read(f"FAR_EL{el}")
        ec, status = esr >> 26, esr & 0x3F
        if ec == 0 and now.word >> 22 == SYSTEM >> 22:
            raise UnsupportedError(f"{self.name}: {pc:#x}: {now.text}: it has no such register")
        if ec not in (*FETCHES, *ACCESSES):
            return Death(pc, CLASSES.get(ec, f"exception class {ec:#04x}"))
        access = "fetch" if ec in FETCHES else "store" if esr >> 6 & 1 else "load"
        try:
            fault = fault_of_status(status, far)
        except InvalidError:
            what = "no memory there" if status == 0x10 else f"fault status {status:#04x}"
            return Death(pc, what, access, far, None, status)
        return Death(pc, str(fault), access, far, fault, status)
