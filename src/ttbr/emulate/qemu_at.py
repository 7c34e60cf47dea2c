"""AT instructions on a machine that QEMU emulates: bare metal, at EL3, RAM shared with the host.

The RAM is an anonymous file (`os.memfd_create`) that QEMU opens through /proc, so nothing is left
in any directory however the process ends. The guest is a small interpreter: it waits for a job
list in a mailbox, runs each record's handler, and clears the mailbox. The vCPU is stopped
(SIGSTOP) between job lists, since the wait for the mailbox is a busy one.

A walk that takes an external abort raises a data abort instead of writing PAR_EL1; the vector
puts the syndrome where the PAR would go. Bit 11 tells them apart: RES1 in PAR_EL1, and zero in
the syndrome of such an abort (ESR_ELx.ISS.SET).
"""

import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Self

from ttbr.emulate import encode
from ttbr.emulate.qemu_process import QemuProcess, sparse_file
from ttbr.emulate.unicorn_at import (
    AT_OPERATIONS,
    HCR_EL2_RW,
    SCR_EL3,
    TRANSLATION_REGISTERS,
)
from ttbr.errors import InvalidError, TtbrError

__all__ = ["FREE_RAM", "RAM", "ExternalAbort", "QemuAt", "qemu_version"]

PROGRAM = "qemu-system-aarch64"
OLDEST = (7, 0)  # the first with FEAT_LPA2
HOW_TO_GET = "apt-get install qemu-system-arm"

RAM = 0x4000_0000  # of the virt machine; its first MiB is overwritten by the device tree
CODE = RAM + 0x20_0000
MAILBOX = RAM + 0x21_0000
RECORDS = RAM + 0x22_0000
VAS = RAM + 0x40_0000
BATCH = 1 << 17
PARS = VAS + 8 * BATCH
FREE_RAM = PARS + 8 * BATCH  # from here on RAM belongs to the tables under test

REQUEST, ERROR_ESR, ERROR_ELR = 0, 8, 16  # words of the mailbox
PAR_RES1 = 1 << 11
DATA_ABORT_SAME_EL = 0x25  # ESR_ELx.EC


@dataclass(frozen=True, slots=True)
class ExternalAbort:
    """An AT instruction whose table walk took an external abort; `esr` is the syndrome."""

    esr: int

    @property
    def status(self) -> int:
        """The fault status code, ESR_ELx.ISS.DFSC."""
        return self.esr & 0x3F

    @property
    def s1ptw(self) -> bool:
        """The abort was on the stage 2 walk for a stage 1 descriptor, ESR_ELx.ISS.S1PTW."""
        return bool(self.esr >> 7 & 1)


def _interpreter() -> encode.Code:
    """The guest: X19 is the mailbox, X21 the next record ``(handler, X0, X1, X2)``."""
    code = encode.Code(CODE)
    code.emit(*encode.mov_immediate(19, MAILBOX), *encode.mov_immediate(1, CODE + 0x800))
    code.emit(encode.msr("VBAR_EL3", 1), *encode.mov_immediate(1, SCR_EL3))
    code.emit(encode.msr("SCR_EL3", 1), encode.ISB)
    code.label("wait")
    code.emit(encode.ldr(0, 19, REQUEST))
    code.cbz(0, "wait")
    code.emit(encode.dmb(), *encode.mov_immediate(21, RECORDS))
    code.label("next")
    code.emit(encode.ldr_post(9, 21, 8))
    code.cbz(9, "done")
    code.emit(*(encode.ldr_post(register, 21, 8) for register in (0, 1, 2)), encode.br(9))
    code.label("done")
    code.emit(encode.dsb(), encode.str_(31, 19, REQUEST))
    code.b("wait")
    code.align(0x800)
    for _ in range(16):
        code.b("exception")
        code.align(0x80)
    _exception(code)
    _handlers(code)
    return code


def _exception(code: encode.Code) -> None:
    code.label("exception")
    code.emit(encode.mrs(4, "ESR_EL3"), encode.mrs(5, "ELR_EL3"), encode.lsr(6, 4, 26))
    code.emit(encode.sub_immediate(6, 6, DATA_ABORT_SAME_EL))
    code.cbz(6, "walk aborted")
    code.emit(encode.str_(4, 19, ERROR_ESR), encode.str_(5, 19, ERROR_ELR))
    code.b("done")
    code.label("walk aborted")  # go on at the store of the AT loop, with the syndrome in X4
    code.emit(encode.add_immediate(5, 5, 12), encode.msr("ELR_EL3", 5), encode.ERET)


def _handlers(code: encode.Code) -> None:
    for name in TRANSLATION_REGISTERS:
        code.label(f"MSR {name}")
        code.emit(encode.msr(name, 0), encode.ISB)
        code.b("next")
    for name in READABLE:
        code.label(f"MRS {name}")
        code.emit(encode.mrs(4, name), encode.str_(4, 1))
        code.b("next")
    code.label("TLBI")
    code.emit(encode.dsb(), *(encode.system(f"TLBI ALLE{el}") for el in (1, 2, 3)))
    code.emit(encode.dsb(), encode.ISB)
    code.b("next")
    for value in (0, 1):
        code.label(f"PAN {value}")
        code.emit(encode.msr_pan(value))
        code.b("next")
    for name in AT_OPERATIONS:
        code.label(f"AT {name}")
        code.emit(encode.ldr_post(3, 0, 8), encode.system(f"AT {name}", 3), encode.ISB)
        code.emit(encode.mrs(4, "PAR_EL1"), encode.str_post(4, 1, 8))
        code.emit(encode.sub_immediate(2, 2, 1, flags=True))
        code.b_cond("ne", f"AT {name}")
        code.b("next")


READABLE = (
    *TRANSLATION_REGISTERS,
    *("MIDR_EL1", "ID_AA64PFR0_EL1", "ID_AA64MMFR0_EL1", "ID_AA64MMFR1_EL1", "ID_AA64MMFR2_EL1"),
)


@cache
def qemu_version(program: str = PROGRAM) -> tuple[int, ...]:
    """The version of *program*; `TtbrError` when it is missing, says none, or is too old."""
    path = shutil.which(program)
    if path is None:
        raise TtbrError(f"{program} is not installed: {HOW_TO_GET}")
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=10
        )
    except OSError as error:
        raise TtbrError(f"{path} --version: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise TtbrError(f"{path} --version: no answer in 10 s") from None
    found = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", answer.stdout)
    if found is None:
        raise TtbrError(f"{path} --version: no version in {answer.stdout[:60]!r}")
    version = tuple(int(part) for part in found.groups() if part is not None)
    if version[:2] < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise TtbrError(f"{path} is version {found[0][8:]}: {needed} or later is needed")
    return version


class QemuAt:
    """A QEMU machine that answers AT instructions. Use it as a context manager.

    *cpu* is what ``-cpu`` takes (``max``, ``cortex-a57``, ``neoverse-n1``, ``max,lpa2=off``);
    *ram* the bytes of RAM from `RAM` on (sparse, so terabytes cost little); *timeout* the seconds
    that one job list may take. The tables under test go to `FREE_RAM` or higher.
    Errors are `TtbrError`: QEMU missing, too old, silent, or dead (with its last words).
    """

    def __init__(
        self,
        cpu: str = "max",
        ram: int = 64 << 20,
        timeout: float = 20.0,
        program: str = PROGRAM,
    ) -> None:
        self.version = qemu_version(program)
        self.cpu = cpu
        self.timeout = timeout
        self._loaded: set[str] = set()
        self._process: QemuProcess | None = None
        self._code = _interpreter()
        descriptor = sparse_file(ram)
        try:
            self.memory = mmap.mmap(descriptor, ram)
            self.write(CODE, bytes(self._code))
            self._start(program, descriptor, ram)
            self._run([])
        except (OSError, OverflowError) as error:
            self.close()
            raise TtbrError(f"{program} with {ram} bytes of RAM: {error}") from None
        except BaseException:
            self.close()
            raise
        finally:
            os.close(descriptor)

    def _start(self, program: str, descriptor: int, ram: int) -> None:
        backend = f"memory-backend-file,id=ram,size={ram},mem-path=/dev/fd/{descriptor},share=on"
        arguments = [
            *("-cpu", self.cpu, "-m", f"{ram // 1024}K", "-object", backend),
            *("-machine", "virt,virtualization=on,secure=on,gic-version=3,memory-backend=ram"),
            *("-display", "none", "-serial", "none", "-monitor", "none", "-nodefaults"),
            *("-device", f"loader,addr={CODE:#x},cpu-num=0"),
        ]
        self.write(MAILBOX + REQUEST, b"\1")
        self._process = QemuProcess(program, arguments, (descriptor,))

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
        if self._process is not None:
            self._process.close()
            self._process = None

    @property
    def pid(self) -> int | None:
        """The process id of QEMU; None once closed."""
        return None if self._process is None else self._process.pid

    def write(self, address: int, data: bytes) -> None:
        """Put *data* at PA *address* of the RAM; `InvalidError` when it is not there."""
        offset = self._offset(address, len(data))
        self.memory[offset : offset + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at PA *address* of the RAM; `InvalidError` when it is not there."""
        offset = self._offset(address, size)
        return self.memory[offset : offset + size]

    def _offset(self, address: int, size: int) -> int:
        if address < RAM or address + size > RAM + len(self.memory):
            end = RAM + len(self.memory)
            raise InvalidError(f"{address:#x}, {size} bytes: not in the RAM {RAM:#x}-{end:#x}")
        return address - RAM

    def map_pages(self, pages: Mapping[int, bytes]) -> None:
        """Copy pages of memory ``{PA: bytes}`` into the RAM, `FREE_RAM` or higher."""
        for address, data in pages.items():
            if address < FREE_RAM:
                raise InvalidError(f"page {address:#x}: below {FREE_RAM:#x}, the harness's own RAM")
            self.write(address, data)

    def load(self, registers: Mapping[str, int]) -> None:
        """Set the `TRANSLATION_REGISTERS` in *registers*; those set before and not now become zero.

        HCR_EL2.RW is always set. A register that the CPU lacks is a `TtbrError`.
        With SCTLR_EL3.M set, the tables of EL3 must identity map the harness's RAM.
        """
        wanted = {name for name in TRANSLATION_REGISTERS if name in registers} | {"HCR_EL2"}
        values = dict.fromkeys(self._loaded, 0) | {n: registers.get(n, 0) for n in wanted}
        values["HCR_EL2"] |= HCR_EL2_RW
        # The harness runs at EL3: its MMU goes off first and comes on last.
        control = values.pop("SCTLR_EL3", 0)
        order = [("SCTLR_EL3", 0), *sorted(values.items()), ("SCTLR_EL3", control)]
        self._run([(f"MSR {name}", value, 0, 0) for name, value in order])
        self._loaded = wanted

    def registers(self, names: Iterable[str] = READABLE) -> dict[str, int]:
        """The values that the CPU holds in system registers *names*."""
        result = {}
        for name in names:
            self._run([(f"MRS {name}", 0, PARS, 0)])
            result[name] = int.from_bytes(self.read(PARS, 8), "little")
        return result

    def at(
        self, operation: str, addresses: Sequence[int], pan: bool = False
    ) -> "list[int | ExternalAbort]":
        """PAR_EL1 after ``AT operation`` of each of *addresses*, or the walk's `ExternalAbort`.

        *operation* is one of `AT_OPERATIONS`; *pan* is PSTATE.PAN, which S1E1RP and S1E1WP obey.
        The TLB is flushed first.
        """
        if operation not in AT_OPERATIONS:
            raise InvalidError(f"AT {operation}: must be one of {', '.join(AT_OPERATIONS)}")
        words = array("Q", addresses)
        results: list[int | ExternalAbort] = []
        for first in range(0, len(words), BATCH):
            batch = words[first : first + BATCH]
            self.write(VAS, batch.tobytes())
            records: list[Any] = [("TLBI", 0, 0, 0)]
            if operation.endswith("P"):
                records.append((f"PAN {int(pan)}", 0, 0, 0))
            self._run([*records, (f"AT {operation}", VAS, PARS, len(batch))])
            pars = array("Q", self.read(PARS, 8 * len(batch)))
            results += [par if par & PAR_RES1 else ExternalAbort(par) for par in pars]
        return results

    def _run(self, jobs: Sequence[tuple[str, int, int, int]]) -> None:
        """Let the guest run *jobs*: (name of the handler, X0, X1, X2)."""
        if jobs:
            packed = b"".join(
                struct.pack("<4Q", self._code.address(name), *values) for name, *values in jobs
            )
            self.write(RECORDS, packed + bytes(32))
            self.write(MAILBOX, struct.pack("<3Q", 1, 0, 0))
            self._signal(signal.SIGCONT)
        self._wait()
        self._signal(signal.SIGSTOP)
        _, esr, elr = struct.unpack("<3Q", self.read(MAILBOX, 24))
        if elr:
            raise TtbrError(
                f"QEMU -cpu {self.cpu}: exception in {self._code.nearest(elr)} (ESR_EL3 {esr:#x})"
            )

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise TtbrError("QEMU is closed")
        self._process.signal(number)

    def _wait(self) -> None:
        request = MAILBOX + REQUEST - RAM
        deadline = time.monotonic() + self.timeout
        pause = 20e-6
        while self.memory[request]:
            time.sleep(pause)
            pause = min(pause * 1.5, 2e-3)
            assert self._process is not None
            end = self._process.end()
            if end is not None:
                raise TtbrError(f"QEMU {end}")
            if time.monotonic() > deadline:
                self.close()
                raise TtbrError(f"QEMU -cpu {self.cpu}: no answer in {self.timeout:g} s")
