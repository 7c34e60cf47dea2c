"""A Unicorn CPU that runs a job instruction by instruction, and why it stopped.

`ttbr.emulate.unicorn_run` lets Unicorn translate, `ttbr.emulate.replay` does it by itself; what
they share is here. Facts about Unicorn 2.1 that shape this module, beside those of
`ttbr.emulate.unicorn_at`:

* No exception is ever taken: it ends the run, and the syndrome registers stay as they are.
* A code hook is called when the instruction has been fetched and before it is executed, with its
  virtual address. A system register that an MSR writes counts from the next instruction on.
* Memory is reached by physical address; where there is none, the run ends.
* The EL1 names are not redirected under HCR_EL2.E2H (quirk U7): such an instruction is not executed
  but done here. Its MMU does have the EL2&0 regime, both of whose tables it walks.
"""

import ctypes
import mmap
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ttbr.arch.registers import REGISTERS
from ttbr.emulate import encode
from ttbr.emulate.run import Executed, Job, State, blocks_of
from ttbr.emulate.unicorn_at import HCR_EL2_RW, PSTATE, SCR_EL3, TRANSLATION_REGISTERS
from ttbr.errors import InvalidError, TtbrError, UnsupportedError
from ttbr.switch.machinecode import decode
from ttbr.switch.operands import Memory
from ttbr.switch.sysregs import encoding_of, redirected, register_at

__all__ = ["NOWHERE", "Stop", "UnicornCpu", "refuse_wide"]

HCR_E2H = 1 << 34
NOWHERE = (1 << 64) - 1  # an address to run until that code never reaches
VECTOR_CURRENT_SPX, VECTOR_LOWER = 0x200, 0x400
PREFETCH_ABORT, DATA_ABORT = 3, 4
# Numbers that UC_HOOK_INTR gives (QEMU's EXCP_*).
EXCEPTIONS = {
    1: "UNDEFINED instruction",
    2: "SVC",
    7: "BRK",
    11: "HVC",
    12: "trap to EL2",
    13: "SMC",
}
CALLS = {"SVC", "HVC", "SMC"}
SYSTEM_SPACE, SYSTEM_MASK = 0xD5000000, 0xFFC00000
MOVE, MOVE_MASK, LOAD_BIT = 0xD5100000, 0xFFD00000, 1 << 21  # MSR (register), and MRS with L
# Of the registers with a second name under E2H, those that this CPU lacks.
ABSENT = {
    *("SCTLR2", "TCR2", "PIRE0", "PIR", "POR"),
    *("SCXTNUM", "SMCR", "TRFCR", "TFSR", "PMSCR"),
}
FLUSHING = ("SCTLR_", "TCR_")  # an MSR to one of these empties Unicorn's TLB


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run stopped at `pc` without reaching its end.

    `access` is ``fetch``, ``load`` or ``store`` of the virtual address `far` when that was refused
    or reached the physical address `hole`, where no memory is; `what` is any other reason: with
    an access, that it was meant to be refused.
    """

    pc: int
    access: str = ""
    far: int | None = None
    hole: int | None = None
    what: str = ""


def import_unicorn() -> Any:
    """The unicorn package; `TtbrError` says how to get it."""
    try:
        import unicorn
    except ImportError:
        raise TtbrError("Unicorn is not installed: pip install 'ttbr[emulate]'") from None
    return unicorn


class UnicornCpu:
    """A CPU set up for *job*. A context manager: the CPU holds buffers of its own."""

    def __init__(self, job: Job) -> None:
        unicorn = self.unicorn = import_unicorn()
        self.const = unicorn.arm64_const
        self.job = job
        self.executed: list[Executed] = []
        self.taken = 0  # exceptions
        self.blocks: dict[int, mmap.mmap] = {}
        self._buffers: list[Any] = []
        self._exception: int | None = None
        self._hole: tuple[int, int] | None = None
        self._arrived = False
        self._failure: TtbrError | None = None
        self._waiting: tuple[str, int] | None = None  # an access that was redirected
        self.uc: Any = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self.uc.ctl_set_cpu_model(self.const.UC_CPU_ARM64_MAX)
        self.uc.ctl_set_tcg_buffer_size(4 << 20)
        self._map()
        self._load()
        self.uc.hook_add(unicorn.UC_HOOK_CODE, self._on_code)
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self.uc.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._on_hole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.uc = None
        self._buffers.clear()

    def _map(self) -> None:
        for address, data in blocks_of(self.job.memory).items():
            block = mmap.mmap(-1, len(data))
            block[:] = bytes(data)
            buffer = (ctypes.c_char * len(data)).from_buffer(block)
            try:
                self.uc.mem_map_ptr(address, len(data), 7, ctypes.addressof(buffer))
            except self.unicorn.UcError as error:
                raise InvalidError(f"memory at {address:#x}, {len(data)} bytes: {error}") from None
            self.blocks[address] = block
            self._buffers.append(buffer)

    def _load(self) -> None:
        # Only a cpr_write after it makes a new exception level take effect.
        self.uc.reg_write(self.const.UC_ARM64_REG_PSTATE, PSTATE[self.job.el])
        self.write("SCR_EL3", SCR_EL3)
        for name, value in ({"HCR_EL2": 0} | self.job.system).items():
            self.write(name, value | HCR_EL2_RW if name == "HCR_EL2" else value)
        for number, value in self.job.general.items():
            self.uc.reg_write(self._general(number), value)
        if "sp" in self.job.registers:
            self.uc.reg_write(self.const.UC_ARM64_REG_SP, self.job.registers["sp"])
        self.flush()

    def _general(self, number: int) -> int:
        x29 = self.const.UC_ARM64_REG_X29  # x29 and x30 are numbered apart from the others
        return int(self.const.UC_ARM64_REG_X0 + number if number < 29 else x29 + number - 29)

    def read_general(self, number: int) -> int:
        """X<number>; 31 is SP."""
        if number == 31:
            return int(self.uc.reg_read(self.const.UC_ARM64_REG_SP))
        return int(self.uc.reg_read(self._general(number)))

    def write(self, name: str, value: int) -> None:
        """Set a system register as it is, without any effect of an MSR."""
        self.uc.cpr_write(*_encoding(name), value)

    def read(self, name: str) -> int:
        """A system register."""
        return int(self.uc.cpr_read(*_encoding(name)))

    @property
    def pc(self) -> int:
        """The address of the instruction that is next, or that faulted."""
        return int(self.uc.reg_read(self.const.UC_ARM64_REG_PC))

    @property
    def el(self) -> int:
        """The exception level."""
        return int(self.uc.reg_read(self.const.UC_ARM64_REG_PSTATE)) >> 2 & 3

    @property
    def steps(self) -> int:
        """Instructions executed so far, and fetches that faulted as they are meant to."""
        return len(self.executed) + self.taken

    def flush(self) -> None:
        """Empty the TLB."""
        self.uc.ctl(self.unicorn.UC_CTL_TLB_FLUSH, self.unicorn.UC_CTL_IO_WRITE)

    def registers(self) -> dict[str, int]:
        """The translation registers and the PC as they are now."""
        return {name: self.read(name) for name in TRANSLATION_REGISTERS} | {"PC": self.pc}

    def state(self) -> State:
        """What translates now."""
        el = self.el
        own = max(el, 1)
        two = own == 1 or (own == 2 and bool(self.read("HCR_EL2") & HCR_E2H))
        return State(
            el,
            bool(self.read(f"SCTLR_EL{own}") & 1),
            self.read(f"TTBR0_EL{own}"),
            self.read(f"TTBR1_EL{own}") if two else None,
            self.read(f"TCR_EL{own}"),
        )

    def run(self, cold: bool = False) -> Stop | None:
        """Run the job; with *cold* the TLB is emptied before each instruction.

        None when its end was reached.
        """
        pc, limit = self.job.entry, self.job.limit
        while len(self.executed) < limit:
            if cold:
                self.flush()
            stop = self._start(pc, 1 if cold else limit - len(self.executed))
            if self._arrived:
                return None
            if self._waiting is not None:
                self._access(*self._waiting)
            elif stop is not None and self._is_meant(stop):
                self.taken += 1
                self._take_exception(stop.pc, self.el)
            elif stop is not None and stop.what in CALLS and stop.pc - 4 in self.job.calls:
                to = self.job.calls[stop.pc - 4]
                if to is not None:
                    self._take_exception(stop.pc, to)
            elif stop is not None:
                return stop
            pc = self.pc
        return Stop(self.pc, what=f"still running after {limit} instructions")

    def _access(self, name: str, word: int) -> None:
        """The MSR or MRS *word* at PC, done to the system register *name*."""
        self._waiting = None
        number = word & 31
        if word & LOAD_BIT:
            if number != 31:
                self.uc.reg_write(self._general(number), self.read(name))
        else:
            self.write(name, 0 if number == 31 else self.read_general(number))
            if name.startswith(FLUSHING):
                self.flush()
        self.uc.reg_write(self.const.UC_ARM64_REG_PC, self.executed[-1].pc + 4)

    def _is_meant(self, stop: Stop) -> bool:
        return stop.access == "fetch" and stop.far in self.job.faults and not stop.what

    def _start(self, pc: int, count: int) -> Stop | None:
        self._exception = self._hole = None
        error = 0
        try:
            self.uc.emu_start(pc, NOWHERE, count=count)
        except self.unicorn.UcError as problem:
            error = int(problem.errno)
        if self._failure is not None:
            raise self._failure
        if error or self._exception is not None:
            return self.stop(error)
        return None

    def stop(self, error: int) -> Stop:
        """Why Unicorn stopped, with the number of its error."""
        pc, u = self.pc, self.unicorn
        if self._hole is not None:
            kind, address = self._hole
            if kind == u.UC_MEM_FETCH_UNMAPPED:
                return Stop(pc, "fetch", pc, address)
            access = "store" if kind == u.UC_MEM_WRITE_UNMAPPED else "load"
            return Stop(pc, access, self.data_address(pc), address)
        if self._exception == PREFETCH_ABORT:
            return Stop(pc, "fetch", pc)
        if self._exception == DATA_ABORT:
            return Stop(pc, self.data_access(pc), self.data_address(pc))
        if self._exception == 1:
            self._refuse_absent()
        number = self._exception
        what = EXCEPTIONS.get(number, f"exception {number}") if number else f"Unicorn error {error}"
        return Stop(pc, what=what)

    def _refuse_absent(self) -> None:
        """A system instruction that this CPU does not have says nothing about the code."""
        last = self.executed[-1] if self.executed else None
        if last is not None and last.word & SYSTEM_MASK == SYSTEM_SPACE:
            raise UnsupportedError(f"{last.pc:#x}: {last.text}: Unicorn's CPU does not have it")

    def _last_decoded(self, pc: int) -> Any:
        if not self.executed or self.executed[-1].pc != pc:
            return None
        with suppress(InvalidError):
            return decode(self.executed[-1].word, pc)
        return None

    def data_access(self, pc: int) -> str:
        """``load`` or ``store``: what the instruction at *pc*, the last one fetched, does."""
        found = self._last_decoded(pc)
        return "store" if found is not None and found.mnemonic.startswith("st") else "load"

    def data_address(self, pc: int) -> int | None:
        """The address that the instruction at *pc*, the last one fetched, loads or stores."""
        found = self._last_decoded(pc)
        for operand in found.operands if found is not None else ():
            if isinstance(operand, Memory) and operand.base is not None:
                address = self.read_general(operand.base.number)
                if operand.index is not None:
                    index = self.read_general(operand.index.register.number)
                    address += index << operand.index.amount
                elif operand.mode != "post":
                    address += operand.offset
                return address % (1 << 64)
        return None

    def _take_exception(self, back: int, to: int) -> None:
        """A synchronous exception to EL*to* that returns to *back* (D1.3.1)."""
        pstate = int(self.uc.reg_read(self.const.UC_ARM64_REG_PSTATE))
        offset = VECTOR_CURRENT_SPX if self.el == to else VECTOR_LOWER
        self.uc.reg_write(self.const.UC_ARM64_REG_PSTATE, PSTATE[to])
        # Only a cpr_write after it makes a new exception level take effect.
        self.write(f"ELR_EL{to}", back)
        self.write(f"SPSR_EL{to}", pstate)
        self.uc.reg_write(self.const.UC_ARM64_REG_PC, self.read(f"VBAR_EL{to}") + offset)

    # Hooks. An exception must not leave one: it is kept, and raised when the run has stopped.

    def _on_code(self, uc: Any, pc: int, size: int, data: object) -> None:
        try:
            state = self.state()
            self._refuse(state)
            pa = self.fetched_from(pc)
            word = 0
            with suppress(self.unicorn.UcError):
                word = int.from_bytes(uc.mem_read(pc if pa is None else pa, 4), "little")
            self.executed.append(Executed(pc, word, pa, state))
            self._waiting = self._redirected(state, pc, word)
            if self._waiting is not None:
                uc.emu_stop()
        except TtbrError as error:
            self._failure = error
            uc.emu_stop()
        if pc == self.job.until:
            self._arrived = True
            uc.emu_stop()

    def _refuse(self, state: State) -> None:
        """Hook for what the CPU would silently do wrong."""

    def _redirected(self, state: State, pc: int, word: int) -> tuple[str, int] | None:
        """(the register that it reaches, *word*) if that is an MSR or MRS under another name."""
        if state.el != 2 or state.ttbr1 is None or word & MOVE_MASK != MOVE:
            return None
        op0, op1 = word >> 19 & 3, word >> 16 & 7
        name = register_at((op0, op1, word >> 12 & 15, word >> 8 & 15, word >> 5 & 7))
        other = redirected(name, 2, True)
        if other is None or other == name:
            return None
        if other.partition("_")[0] in ABSENT:
            text = decode(word, pc).text
            raise UnsupportedError(f"{pc:#x}: {text}: Unicorn's CPU does not have it")
        return other, word

    def fetched_from(self, pc: int) -> int | None:
        """The physical address that Unicorn has for *pc*, or None."""
        translate = _vmem_translate()
        if translate is None:
            return None
        found = ctypes.c_uint64()
        error = translate(self.uc._uch, pc, self.unicorn.UC_PROT_EXEC, ctypes.byref(found))
        return None if error else found.value

    def _on_exception(self, uc: Any, number: int, data: object) -> None:
        self._exception = number
        uc.emu_stop()

    def _on_hole(
        self, uc: Any, kind: int, address: int, size: int, value: int, data: object
    ) -> bool:
        self._hole = kind, address
        return False


def _encoding(name: str) -> tuple[int, int, int, int, int]:
    return encoding_of(name) or encode.system_register(name)


def _vmem_translate() -> Any:
    """``uc_vmem_translate``, which the Python binding leaves out; None where it is missing."""
    try:
        from unicorn.unicorn_py3.unicorn import uclib

        function = uclib.uc_vmem_translate
    except (ImportError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint64,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_uint64),
    )
    return function


def refuse_wide(state: State, who: str) -> None:
    """Refuse what a CPU without FEAT_LPA2, FEAT_LVA and FEAT_TTST takes for something else."""
    if not state.mmu:
        return
    layout = "TCR_EL1" if state.el < 2 else "TCR_EL2" if state.ttbr1 is None else "TCR_EL2_E2H"
    if REGISTERS[layout]["DS"].get(state.tcr):
        raise UnsupportedError(f"{who}: TCR_EL{max(state.el, 1)}.DS=1: it has no FEAT_LPA2")
    if not 16 <= state.t0sz <= 39:
        what = "FEAT_LVA" if state.t0sz < 16 else "FEAT_TTST"
        raise UnsupportedError(f"{who}: T0SZ={state.t0sz}: it has no {what}")
