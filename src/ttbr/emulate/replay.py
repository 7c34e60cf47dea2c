"""Run a job on Unicorn with our own walk in place of its MMU, and a TLB that may be hostile.

Every instruction is executed by Unicorn, every address translated by `ttbr.walk` under the
registers that it holds at that moment. So 52-bit addresses run, which Unicorn's own CPU does not
have. And what a proof says may be in a TLB can be put there: a `Held` translation is used in place
of a walk while it lasts. `ttbr.emulate.held.held_of` takes it from a counterexample, which is
thereby seen to fail; what no emulator can show is marked as `Death.decreed`.

Unicorn's TLB is emptied before each instruction, so that nothing but the walk and what is held
counts. (UC_TLB_VIRTUAL asks the hook for one page at a time, for a fetch once more when refused.)
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ttbr.arch.attributes import PR, PW, PX
from ttbr.arch.bits import ones
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.features import Features
from ttbr.arch.regime import EL1, EL2, EL20, Regime, regime_of
from ttbr.emulate.held import Held
from ttbr.emulate.run import Death, Job, Outcome
from ttbr.emulate.unicorn_at import PSTATE_PAN
from ttbr.emulate.unicorn_cpu import NOWHERE, Stop, UnicornCpu
from ttbr.errors import InvalidError, MemoryFault, TtbrError
from ttbr.memory.segments import SparseMemory
from ttbr.walk import EXECUTE, READ, WRITE, Access, translate
from ttbr.walk.translate import Leaf, _denied, table_walk

__all__ = ["replay"]

SMALLEST = 1 << 10  # the pages of Unicorn's TLB
EPAN = 1 << 57  # in SCTLR_ELx


class _Refusal(NamedTuple):
    """Why *access* to *va* was not given a page; with `no_fault` it was meant to fault, and would
    not."""

    access: str
    va: int
    fault: Fault | None
    why: str
    decreed: bool = False
    no_fault: bool = False


def replay(job: Job, held: Iterable[Held] = (), features: Features | None = None) -> Outcome:
    """Run *job* under our walk, with the translations *held* in the TLB.

    *features* are those of the CPU; unless given, all that the registers ask for. Raises what
    `regime_of` raises for registers that cannot be.
    """
    with _Cpu(job, tuple(held), features) as cpu:
        stop = cpu.run(cold=True)
        death = None if stop is None else cpu.death(stop)
        name = "Unicorn with our walk" + (" and a hostile TLB" if cpu.held else "")
        held_lines = tuple(cpu.used)
        return Outcome(job, name, tuple(cpu.executed), death, cpu.registers(), held_lines)


class _Cpu(UnicornCpu):
    """Translates each page that Unicorn asks for, and remembers why one was refused."""

    def __init__(self, job: Job, held: tuple[Held, ...], features: Features | None) -> None:
        super().__init__(job)
        u = self.unicorn
        self.held, self.features = held, features
        self.memory = SparseMemory(self.blocks)
        self.refused: _Refusal | None = None
        self.last: _Refusal | None = None
        self.used: dict[str, None] = {}  # what was held, in words, in the order of use
        self._shown: dict[int, set[int]] = {a: set() for e in self.held for a in e.descriptors}
        self.error: TtbrError | None = None
        self._fetched: dict[int, int] = {}
        self._regimes: dict[tuple[object, ...], Regime] = {}
        self._kinds = {
            u.UC_MEM_READ: ("load", READ, PR),
            u.UC_MEM_WRITE: ("store", WRITE, PW),
            u.UC_MEM_FETCH: ("fetch", EXECUTE, PX),
        }
        self.uc.ctl_set_tlb_mode(u.UC_TLB_VIRTUAL)
        self.uc.hook_add(u.UC_HOOK_TLB_FILL, self._on_fill)

    def _on_fill(self, uc: Any, va: int, kind: int, entry: Any, data: object) -> bool:
        name, access, need = self._kinds[kind]
        va &= ones(64)
        if va == NOWHERE & -SMALLEST:
            entry.paddr, entry.perms = next(iter(self.blocks)), self.unicorn.UC_PROT_ALL
            return True
        self.refused = None
        try:
            self._watch()
            pan = bool(self.uc.reg_read(self.const.UC_ARM64_REG_PSTATE) & PSTATE_PAN)
            pa, permissions = self._translate(va, name, Access(access.name, need, pan))
        except TtbrError as error:
            self.error = error
            return False
        if pa is None:
            return False
        if name == "fetch":
            self._fetched[va] = pa
        u = self.unicorn
        entry.paddr = pa
        entry.perms = (
            (u.UC_PROT_READ if permissions & PR else 0)
            | (u.UC_PROT_WRITE if permissions & PW else 0)
            | (u.UC_PROT_EXEC if permissions & PX else 0)
        )
        return True

    def _watch(self) -> None:
        """Remember what the descriptors that held entries are made of read as now."""
        for address, values in self._shown.items():
            try:
                values.add(int.from_bytes(self.memory.read(address, 8), "little"))
            except MemoryFault:
                continue

    def _translate(self, va: int, name: str, access: Access) -> tuple[int | None, int]:
        """(PA, permissions) of the page at *va*; None as PA when *access* is refused."""
        number = self.steps - (name != "fetch")
        found: tuple[int, int] | None = None
        line = ""
        for entry in self.held:
            if not (entry.va <= va < entry.va + entry.size and entry.first <= number <= entry.last):
                continue
            if any(value not in self._shown[at] for at, value in entry.descriptors.items()):
                continue
            answer = self._meets(entry, va, access)
            if answer is None:
                continue
            self.refused = _judged(entry, va, name, access, answer, self._epan())
            if self.refused is not None:
                self.used[_line(entry, va, answer)] = None
                return None, 0
            if found is None and isinstance(answer, tuple):
                found, line = answer, _line(entry, va, answer)
        if found is None:
            return self._walk(va, name, access)
        self.used[line] = None
        return found

    def _meets(
        self, entry: Held, va: int, access: Access
    ) -> "tuple[int, int] | Fault | str | None":
        """(PA, permissions) that *entry* gives, the fault or reason for which it gives none; None
        where the emulated memory cannot tell."""
        if entry.decreed or not (entry.registers or entry.pa is not None):
            return entry.why
        if not entry.registers:
            assert entry.pa is not None
            return entry.pa + va - entry.va, entry.permissions
        try:
            answer = self._walked(entry, va, access)
        except InvalidError as error:
            return str(error)
        if isinstance(answer, Fault) and answer.kind is FaultKind.EXTERNAL_ABORT:
            return None
        return answer

    def _walked(self, entry: Held, va: int, access: Access) -> tuple[int, int] | Fault:
        """The walk that *entry* stands for."""
        regime = self._regime(entry.registers)
        memory = _Overlaid(self.memory, entry.descriptors)
        if entry.resume is None:
            answer = translate(memory, regime, va, access)
            return answer if isinstance(answer, Fault) else (answer.pa, answer.permissions)
        p = entry.resume.params(regime.half(va))
        leaf = table_walk(memory, p, va, [])
        if isinstance(leaf, Fault):
            return leaf
        limits = leaf.hierarchical if p.hpd else leaf.hierarchical | entry.resume.hierarchical
        whole = Leaf(p, leaf.level, leaf.shift, leaf.output, leaf.descriptor, limits)
        return whole.output, whole.permissions

    def _epan(self) -> bool:
        return bool(self.read(f"SCTLR_EL{max(self.state().el, 1)}") & EPAN)

    def _walk(self, va: int, name: str, access: Access) -> tuple[int | None, int]:
        answer = translate(self.memory, self._regime({}), va, access)
        if isinstance(answer, Fault):
            self.refused = _Refusal(name, va, answer, answer.reason)
            return None, 0
        # What is not asked for now is asked for again.
        return answer.pa, access.need

    def _regime(self, other: Mapping[str, int]) -> Regime:
        state = self.state()
        name = EL1 if state.el < 2 else EL2 if state.ttbr1 is None else EL20
        registers = {n: v for n, v in self.registers().items() if n != "PC"} | dict(other)
        if other:
            registers[f"SCTLR_EL{max(state.el, 1)}"] |= 1  # a walk is made
        key = (name, *registers.values())
        if key not in self._regimes:
            self._regimes[key] = regime_of(registers, name, self.features)
        return self._regimes[key]

    def fetched_from(self, pc: int) -> int | None:
        """The physical address that the last fill for a fetch gave *pc*."""
        page = self._fetched.get(pc & -SMALLEST)
        return None if page is None else page + pc % SMALLEST

    def stop(self, error: int) -> Stop:
        """A refused page ends the run as an error, without an exception number."""
        if self.refused is None:
            return super().stop(error)
        refused = self.last = self.refused
        self.refused = None
        far = self.pc if refused.access == "fetch" else self.data_address(self.pc) or refused.va
        return Stop(self.pc, refused.access, far, what=refused.why if refused.no_fault else "")

    def death(self, stop: Stop) -> Death:
        """Why the run stopped."""
        if self.error is not None:
            raise self.error
        if stop.hole is not None:
            return Death(stop.pc, f"no memory at PA {stop.hole:#x}", stop.access, stop.far)
        if stop.what:
            return Death(stop.pc, stop.what, stop.access, stop.far)
        last = self.last
        assert last is not None
        if last.fault is None:
            return Death(stop.pc, last.why, stop.access, stop.far, decreed=last.decreed)
        why = f"{last.fault} ({last.why})"
        return Death(stop.pc, why, stop.access, stop.far, last.fault, last.fault.status)


class _Overlaid:
    """*memory* with some words as they were before a store."""

    def __init__(self, memory: SparseMemory, words: Mapping[int, int]) -> None:
        self.memory, self.words = memory, words

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at *address*."""
        if size == 8 and address in self.words:
            return self.words[address].to_bytes(8, "little")
        return self.memory.read(address, size)


def _judged(
    entry: Held,
    va: int,
    name: str,
    access: Access,
    answer: "tuple[int, int] | Fault | str",
    epan: bool,
) -> _Refusal | None:
    """How the run ends at what *entry* gives for *access*; None when it goes on."""
    if isinstance(answer, Fault):
        return _Refusal(name, va, answer, answer.reason)
    if isinstance(answer, str):
        return _Refusal(name, va, None, answer, entry.decreed)
    pa, permissions = answer
    meant = None if entry.intended is None else entry.intended + va - entry.va
    if denied := _denied(permissions, access, epan):
        return _Refusal(name, va, None, f"{denied}: {entry.why}")
    if entry.meant_to_fault:
        text = f"PA {pa:#x} in place of a fault: {entry.why}"
        return _Refusal(name, va, None, text, no_fault=True)
    if meant not in (None, pa):
        return _Refusal(name, va, None, f"PA {pa:#x} in place of {meant:#x}: {entry.why}")
    return None


def _line(entry: Held, va: int, answer: "tuple[int, int] | Fault | str") -> str:
    """What was held for *va*, and where it is from."""
    gives = f"{answer[0]:#x}" if isinstance(answer, tuple) else str(answer)
    return f"{va:#x} -> {'not known' if entry.decreed else gives}, {entry.source}"
