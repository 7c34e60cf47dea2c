"""AT instructions and real accesses on Unicorn, an emulated CPU inside this process.

The guest runs at EL3 with its own MMU off, so its code and buffers are reached by PA and every
lower translation regime can be asked about without being entered. Facts about Unicorn 2.1 that
shape this module:

* A write to PSTATE alone leaves the cached exception level stale; any `cpr_write` after it
  refreshes it (unicorn issues 2333 and 1843).
* `cpr_write` is raw: it neither masks the value nor flushes the TLB.
* AT always walks memory: no TLBI is needed for it. Real accesses use the TLB.
* Without SCR_EL3.RW and HCR_EL2.RW the EL1&0 regime is taken as AArch32, without any error.
"""

import ctypes
import mmap
from array import array
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ttbr.emulate import encode
from ttbr.errors import InvalidError, TtbrError

__all__ = ["ACCESS_CODE", "AT_OPERATIONS", "TRANSLATION_REGISTERS", "UnicornAt"]

AT_OPERATIONS = tuple(
    name.removeprefix("AT ") for name in encode.SYSTEM_OPERATIONS if name.startswith("AT ")
)

# The registers that decide what a translation gives; all others of a register file are ignored.
TRANSLATION_REGISTERS = (
    *("SCTLR_EL1", "TCR_EL1", "TTBR0_EL1", "TTBR1_EL1", "MAIR_EL1"),
    *("SCTLR_EL2", "TCR_EL2", "TTBR0_EL2", "TTBR1_EL2", "MAIR_EL2"),
    *("SCTLR_EL3", "TCR_EL3", "TTBR0_EL3", "MAIR_EL3"),
    *("HCR_EL2", "VTCR_EL2", "VTTBR_EL2"),
)

SCR_EL3 = 0x531  # NS, RES1 bits 5:4, HCE, RW
HCR_EL2_RW = 1 << 31
PSTATE = {0: 0x3C0, 1: 0x3C5, 2: 0x3C9, 3: 0x3CD}  # DAIF masked, ELxh
PSTATE_PAN = 1 << 22

PAGE = 4096
HARNESS = 0xFFF_0000_0000  # near the top of the 44-bit physical addresses of Unicorn's "max"
BATCH = 1 << 16
VAS = PAGE
PARS = VAS + 8 * BATCH
HARNESS_SIZE = PARS + 8 * BATCH

UNDEFINED, PREFETCH_ABORT, DATA_ABORT = 1, 3, 4  # numbers that UC_HOOK_INTR gives

# What a page must begin with for `UnicornAt.access` to load and store from it.
ACCESS_CODE = b"".join(
    word.to_bytes(4, "little")
    for word in (encode.ldr(1, 0, size=4), encode.str_(1, 0, size=4), encode.NOP)
)
ACCESS_OFFSET = {"load": 0, "store": 4}


def _harness(base: int) -> encode.Code:
    """One loop for each AT operation: X2 addresses from X0 on, their PAR_EL1 to X1 on."""
    code = encode.Code(base)
    for name in AT_OPERATIONS:
        code.label(name)
        code.emit(
            encode.ldr_post(3, 0, 8),
            encode.system(f"AT {name}", 3),
            encode.ISB,
            encode.mrs(4, "PAR_EL1"),
            encode.str_post(4, 1, 8),
            encode.sub_immediate(2, 2, 1, flags=True),
        )
        code.b_cond("ne", name)
        code.label(f"{name} end")
        code.emit(encode.NOP)
    return code


def _import() -> Any:
    try:
        import unicorn
    except ImportError:
        raise TtbrError("Unicorn is not installed: pip install 'ttbr[emulate]'") from None
    return unicorn


class UnicornAt:
    """A Unicorn CPU that answers AT instructions and tries real accesses.

    Use it as a context manager. *cpu* is the name of a Unicorn model (``max``, ``a57``, ``a72``,
    ``a53``). *harness* is the PA of `HARNESS_SIZE` bytes of its own code and buffers, which the
    tables under test must not use. Errors are `TtbrError`.
    """

    def __init__(self, cpu: str = "max", harness: int = HARNESS) -> None:
        unicorn = _import()
        model = getattr(unicorn.arm64_const, f"UC_CPU_ARM64_{cpu.upper()}", None)
        if model is None:
            raise InvalidError(f"Unicorn has no CPU model {cpu!r}")
        self._const = unicorn.arm64_const
        self._error = unicorn.UcError
        self._unmapped = {
            "fetch": unicorn.UC_ERR_FETCH_UNMAPPED,
            "load": unicorn.UC_ERR_READ_UNMAPPED,
            "store": unicorn.UC_ERR_WRITE_UNMAPPED,
        }
        self._tlb_flush = unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE
        self._interrupt: int | None = None
        self._buffers: dict[int, Any] = {}
        self._mapped: dict[int, int] = {}
        self.harness = harness
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._uc.ctl_set_cpu_model(model)
        self._uc.ctl_set_tcg_buffer_size(4 << 20)  # the default is 1 GiB of address space
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        self._own = mmap.mmap(-1, HARNESS_SIZE)
        self._code = _harness(harness)
        self._own[: len(bytes(self._code))] = bytes(self._code)
        self.map(harness, self._own)
        self.load({})

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
        """Free the CPU; the buffers given to `map` stay the caller's."""
        self._uc = None
        self._buffers.clear()

    def _on_interrupt(self, uc: Any, number: int, data: object) -> None:
        self._interrupt = number
        uc.emu_stop()

    def map(self, address: int, memory: Any) -> None:
        """Put *memory* at PA *address*; both its length and *address* in multiples of 4 KiB.

        A writable page-aligned buffer (an `mmap`, a NumPy array made from one) is shared with the
        guest without a copy; `bytes`, and what is not aligned, is copied.
        """
        size = memoryview(memory).nbytes
        if address % PAGE or size % PAGE or not size:
            raise InvalidError(f"memory at {address:#x}, {size} bytes: not whole pages of 4 KiB")
        view = memoryview(memory)
        if view.readonly or ctypes.addressof(ctypes.c_char.from_buffer(memory)) % PAGE:
            copy = mmap.mmap(-1, size)
            copy[:] = view.tobytes()
            memory = copy
        buffer = (ctypes.c_char * size).from_buffer(memory)
        try:
            self._uc.mem_map_ptr(address, size, 7, ctypes.addressof(buffer))
        except self._error as error:
            raise InvalidError(f"memory at {address:#x}, {size} bytes: {error}") from None
        self._buffers[address] = buffer
        self._mapped[address] = size

    def map_pages(self, pages: Mapping[int, bytes]) -> None:
        """Copy pages of memory ``{PA: bytes}``; neighbours become one block of memory."""
        run: list[bytes] = []
        start = end = 0
        for address in sorted(pages):
            if run and address != end:
                self.map(start, b"".join(run))
                run = []
            if not run:
                start = address
            run.append(pages[address])
            end = address + len(pages[address])
        if run:
            self.map(start, b"".join(run))

    def unmap(self, address: int) -> None:
        """Take away the memory that `map` put at *address*."""
        self._uc.mem_unmap(address, self._mapped.pop(address))
        del self._buffers[address]

    def load(self, registers: Mapping[str, int]) -> None:
        """Set the `TRANSLATION_REGISTERS`; those not in *registers* become zero.

        SCR_EL3 and HCR_EL2.RW are always set for a Non-secure AArch64 EL2 and EL1. With
        SCTLR_EL3.M set, the tables of EL3 must identity map the harness.
        """
        self._write("SCR_EL3", SCR_EL3)
        for name in TRANSLATION_REGISTERS:
            value = registers.get(name, 0)
            self._write(name, value | HCR_EL2_RW if name == "HCR_EL2" else value)
        self._flush_tlb()

    def _flush_tlb(self) -> None:
        self._uc.ctl(*self._tlb_flush)

    def _write(self, name: str, value: int) -> None:
        self._uc.cpr_write(*encode.system_register(name), value)

    def _enter(self, el: int, pan: bool) -> None:
        self._uc.reg_write(self._const.UC_ARM64_REG_PSTATE, PSTATE[el] | PSTATE_PAN * pan)
        self._write("SCR_EL3", SCR_EL3)

    def at(self, operation: str, addresses: Sequence[int], pan: bool = False) -> "array[int]":
        """PAR_EL1 after ``AT operation`` of each of *addresses*, as an array of 64-bit words.

        *operation* is one of `AT_OPERATIONS`; *pan* is PSTATE.PAN, which S1E1RP and S1E1WP obey.
        """
        if operation not in AT_OPERATIONS:
            raise InvalidError(f"AT {operation}: must be one of {', '.join(AT_OPERATIONS)}")
        words = array("Q", addresses)
        pars = array("Q")
        self._enter(3, pan)
        for first in range(0, len(words), BATCH):
            self._batch(operation, words[first : first + BATCH], pars)
        return pars

    def _batch(self, operation: str, words: "array[int]", pars: "array[int]") -> None:
        size = 8 * len(words)
        self._own[VAS : VAS + size] = words.tobytes()
        x0 = self._const.UC_ARM64_REG_X0
        for number, value in enumerate((self.harness + VAS, self.harness + PARS, len(words))):
            self._uc.reg_write(x0 + number, value)
        begin, end = self._code.address(operation), self._code.address(f"{operation} end")
        error = self._run(begin, until=end)
        if error or self._uc.reg_read(self._const.UC_ARM64_REG_PC) != end:
            what = f"error {error}" if error else f"exception {self._interrupt}"
            raise TtbrError(f"Unicorn: {what} in AT {operation}")
        pars.frombytes(self._own[PARS : PARS + size])

    def _run(self, begin: int, until: int = (1 << 64) - 1, count: int = 0) -> int:
        """The number of the error that stopped the guest, 0 for none (or an exception)."""
        self._interrupt = None
        try:
            self._uc.emu_start(begin, until, count=count)
        except self._error as error:
            return int(error.errno)
        return 0

    def access(
        self, el: int, kind: str, address: int, code: int | None = None, pan: bool = False
    ) -> bool:
        """Whether the MMU lets a real access at exception level *el* through; False: it aborts.

        *kind* is ``fetch`` (of an instruction at *address*), ``load`` or ``store`` (of 4 bytes,
        a zero is stored); the last two are executed from VA *code*, which must be executable at
        *el* and hold `ACCESS_CODE`. *pan* is PSTATE.PAN. The TLB is flushed first. No memory is
        needed at the address that an access goes to. An abort of the code's own fetch is a
        `TtbrError`.
        """
        if kind not in self._unmapped or (kind != "fetch" and code is None):
            raise InvalidError(f"access {kind!r}: must be fetch, or load or store with code")
        begin = address if code is None or kind == "fetch" else code + ACCESS_OFFSET[kind]
        self._uc.reg_write(self._const.UC_ARM64_REG_X0, address)
        self._uc.reg_write(self._const.UC_ARM64_REG_X1, 0)
        self._enter(el, pan)
        self._flush_tlb()
        error = self._run(begin, count=1)
        if error == self._unmapped[kind]:
            return True
        if error == 0 and self._interrupt == (PREFETCH_ABORT if kind == "fetch" else DATA_ABORT):
            return False
        # A fetched word that is no instruction is UNDEFINED: its fetch went through.
        if error or self._interrupt not in (None, UNDEFINED if kind == "fetch" else None):
            what = f"error {error}" if error else f"exception {self._interrupt}"
            raise TtbrError(f"Unicorn: {what} of a {kind} executed at {begin:#x}, EL{el}")
        return True
