"""The emulated CPUs as the random comparison sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ttbr.arch.faults import Fault, fault_of_par, fault_of_status
from ttbr.arch.features import Features, features_of
from ttbr.arch.regime import EL1, EL2, EL20
from ttbr.emulate.qemu_at import FREE_RAM, RAM, ExternalAbort, QemuAt
from ttbr.emulate.quirks import Quirk, quirks_of
from ttbr.emulate.scenarios import STAGE12, Question, Target
from ttbr.emulate.unicorn_at import UnicornAt
from ttbr.errors import MemoryFault

__all__ = ["NotComparable", "Output", "QemuSide", "Side", "UnicornSide", "answer_of"]

# What Unicorn's "max" has; its ID registers do not tell all of it (16K works unadvertised).
UNICORN_FEATURES = Features(
    pa_bits=44,
    lva=False,
    lpa2=frozenset(),
    lpa2_stage2=frozenset(),
    ttst=False,
    hafdbs=0,
    e0pd=False,
    pan3=False,
    xnx=False,
    fwb=False,
)
ID_REGISTERS = ("ID_AA64MMFR0_EL1", "ID_AA64MMFR1_EL1", "ID_AA64MMFR2_EL1")
# Devices of the virt machine above its RAM: redistributors, PCIe configuration space and window.
HIGH_DEVICES = range(0x40_0000_0000, 0x100_0000_0000)


class NotComparable(Exception):
    """The walk met a device of the emulated machine, or what the architecture leaves UNKNOWN."""


@dataclass(frozen=True, slots=True)
class Output:
    """A translation that succeeded, as far as PAR_EL1 tells it; names as in `ttbr.walk.Mapping`."""

    va: int
    pa: int
    attr: int
    shareability: int
    non_secure: bool


def answer_of(result: int | ExternalAbort, va: int) -> Output | Fault:
    """The library's answer for what an AT of *va* gave: PAR_EL1, or an external abort."""
    if isinstance(result, ExternalAbort):
        return fault_of_status(result.status, va, s1ptw=result.s1ptw)
    if result & 1:
        return fault_of_par(result, va)
    pa = result & 0x000F_FFFF_FFFF_F000 | va & 0xFFF
    return Output(va, pa, result >> 56, result >> 7 & 3, bool(result >> 9 & 1))


class Side(Protocol):
    """One emulated CPU in a comparison."""

    @property
    def target(self) -> Target:
        """What the generator of scenarios must know."""
        ...

    @property
    def quirks(self) -> tuple[Quirk, ...]:
        """The known differences, with their effects."""
        ...

    def ask(self, question: Question) -> Sequence[int]:
        """PAR_EL1 for each address; an external abort as the PAR of its fault, without S."""
        ...

    def beyond(self, address: int, size: int) -> bytes:
        """Physical memory outside the question's own; `MemoryFault`, or `NotComparable`."""
        ...


class UnicornSide:
    """Unicorn in a comparison. The tables are mapped for each question and taken away after."""

    def __init__(self, cpu: UnicornAt) -> None:
        self.cpu = cpu
        self.quirks = quirks_of("unicorn")
        bases = (0x4000_0000, 0x80_8000_0000, 0x3FF_0000_0000)
        self.target = Target("unicorn", UNICORN_FEATURES, (EL1, EL2, STAGE12), bases)

    def ask(self, question: Question) -> Sequence[int]:
        """PAR_EL1 for each address of *question*."""
        for base, data in question.memory.items():
            self.cpu.map(base, data)
        self.cpu.load(question.registers)
        try:
            return self.cpu.at(question.operation, question.addresses, question.pan)
        finally:
            for base in question.memory:
                self.cpu.unmap(base)

    def beyond(self, address: int, size: int) -> bytes:
        """No other memory."""
        raise MemoryFault(address, size)


class QemuSide:
    """A QEMU machine in a comparison. What *question* writes to RAM stays there."""

    def __init__(self, machine: QemuAt) -> None:
        self.machine = machine
        self.quirks = quirks_of("qemu")
        ids: Mapping[str, int] = machine.registers(ID_REGISTERS)
        vhe, pan = ids["ID_AA64MMFR1_EL1"] >> 8 & 0xF, ids["ID_AA64MMFR1_EL1"] >> 20 & 0xF
        regimes = (EL1, EL2, STAGE12, *((EL20,) if vhe else ()))
        base = FREE_RAM + 0x1F_FFFF & ~0x1F_FFFF
        name = f"qemu -cpu {machine.cpu}"
        self.target = Target(name, features_of(ids), regimes, (base,), True, pan >= 2)

    def ask(self, question: Question) -> Sequence[int]:
        """PAR_EL1 for each address of *question*."""
        self.machine.map_pages(question.memory)
        self.machine.load(question.registers)
        results = self.machine.at(question.operation, question.addresses, question.pan)
        if question.registers.get("SCTLR_EL3", 0) & 1:
            self.machine.load({})  # it runs under these tables, whose place the next ones take
        return [r if isinstance(r, int) else _abort_par(r) for r in results]

    def beyond(self, address: int, size: int) -> bytes:
        """The machine's other RAM; `NotComparable` for its devices and flash."""
        if RAM <= address <= RAM + len(self.machine.memory) - size:
            return self.machine.read(address, size)
        if address < RAM or address in HIGH_DEVICES:
            raise NotComparable
        raise MemoryFault(address, size)


def _abort_par(abort: ExternalAbort) -> int:
    return fault_of_status(abort.status, s1ptw=abort.s1ptw).par()
