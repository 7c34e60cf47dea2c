"""Runs a program on concrete values and writes down what each instruction does to translation.

One interpreter serves both front ends. Data processing is `ttbr.switch.arithmetic`, registers and
memory are `ttbr.switch.processor`; here is what instructions do beyond that.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ttbr.switch.arithmetic import OPERATIONS
from ttbr.switch.forms import condition_of
from ttbr.switch.instructions import ACCESSES, BARRIERS, HINTS, Access
from ttbr.switch.operands import Memory, Operand, Register
from ttbr.switch.processor import ADDRESS_MASK, Processor, Readable, Unknown, Value
from ttbr.switch.program import (
    Abort,
    At,
    Branch,
    Code,
    Dc,
    Dmb,
    Dsb,
    End,
    Eret,
    ExceptionEntry,
    Ic,
    Instruction,
    Isb,
    Load,
    Msr,
    ProgramError,
    Step,
    Tlbi,
    Trace,
)
from ttbr.switch.sysregs import (
    LEAST_EL,
    PSTATE_FIELDS,
    SYSTEM_OPERATIONS,
    TRANSLATION_REGISTERS,
)
from ttbr.switch.tlbi import tlbi_by_name
from ttbr.switch.traps import EL0_TRAPS, ID_NAMES, READ_ONLY, TRAPS, el0_trap, lands, trap_of

__all__ = ["run"]

_SOMEWHERE = -1  # a former vector base that is not known
_UNTRAPPING = 1 << 31 | 1 << 34  # RW, E2H
_PSTATE = ("SPSEL", "DAIF", "PAN", "UAO", "SSBS", "DIT", "TCO")
_PAN, _SPAN = 22, 23
"""PSTATE.PAN in SPSR_ELx and in what MRS gives, and SCTLR_ELx.SPAN."""


def run(
    code: Code,
    registers: Mapping[str, int],
    el: int,
    memory: Readable | None = None,
    *,
    entry: int | None = None,
    stop: Collection[int] = (),
    faults: Collection[int] = (),
    returns: Collection[int | str] = (),
    place: Callable[[int], int] = lambda va: va,
    limit: int = 65536,
) -> Trace:
    """Run *code* at exception level *el* until it leaves the code, and give its trace.

    *registers* holds x0-x30 and sp by those names, system registers by their Arm names, and NZCV
    (bits 3:0), DAIF, and PAN (0 or 1). SPSEL is 1 and HCR_EL2 is 0 unless they are given; PAN is
    not known then, or 0 where ID_AA64MMFR1_EL1 says that there is none.
    *memory* answers loads by virtual address; *place* tells which virtual addresses are the same
    memory (by default, none).

    The run ends before an address in *stop*, where it falls or branches out of the code, and where
    it returns to the x30 that it was started with. A fetch from an address in *faults* is meant to
    fault and takes the exception. A call to an address in *returns* (or ``hvc``, ``smc``) is not
    looked into: it returns, with the registers that the procedure call standard lets it change
    unknown. `ProgramError` names the instruction that cannot be executed so, or that is the
    *limit*-th of a program that never ends.
    """
    state = _Run(
        code,
        dict(registers),
        el,
        memory,
        place,
        code.entry if entry is None else entry,
        faults=frozenset(faults),
        returns=frozenset(returns),
    )
    state.caller = state.x[30]
    if state.without_pan():
        state.system["PAN"] = 0
    for _ in range(limit):
        if state.pc in stop:
            return state.finish("reaches a stop")
        if state.pc in state.faults:
            state.fault()
            continue
        instruction = code.fetch(state.pc)
        if instruction is None:
            return state.finish("leaves the code")
        state.execute(instruction)
        if state.ended:
            return state.finish(state.ended)
    raise ProgramError(state.pc, "this program", f"does not end within {limit} instructions")


@dataclass(slots=True)
class _Run(Processor):
    """A processor that executes instructions and writes down the steps."""

    faults: frozenset[int] = frozenset()
    returns: frozenset[int | str] = frozenset()
    saved: dict[int, tuple[Unknown, int, Value, dict[str, Value]]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    following: int | None = 0
    ended: str = ""
    caller: Value = 0
    calls: list[int] = field(default_factory=list)
    stale: dict[str, set[int]] = field(default_factory=dict)  # values not synchronized away
    landing: str = ""  # the indirect branch that led here

    def finish(self, how: str) -> Trace:
        known = {f"x{i}": v for i, v in enumerate(self.x) if isinstance(v, int)}
        known |= {name: v for name, v in self.system.items() if isinstance(v, int)}
        if isinstance(self.flags, int):
            known["NZCV"] = self.flags
        return Trace(tuple(self.steps), End(how, self.following), known)

    # Execution

    def execute(self, instruction: Instruction) -> None:
        self.current = instruction
        self.events = []
        if self.written and any(self.place(self.pc + i) in self.written for i in range(4)):
            raise self.error("the program has overwritten this instruction")
        self.following = (self.pc + 4) & ADDRESS_MASK
        step = (self.pc, self.el, instruction.text, instruction.where)
        state = (
            self.hcr(),
            self.pan(),
            bool(self.landing) and not lands(instruction, self.landing),
        )
        self.landing = ""
        mnemonic = instruction.mnemonic
        self.refuse_trapped(instruction)
        if mnemonic in OPERATIONS:
            self.compute(instruction)
        elif mnemonic in ACCESSES:
            self.access(instruction, ACCESSES[mnemonic])
        elif mnemonic.startswith("b."):
            if self.known(self.holds(condition_of(mnemonic)), "the condition"):
                self.branch(self.relative(instruction.operands[0]))
        elif mnemonic in _HANDLERS:
            _HANDLERS[mnemonic](self, instruction.operands)
        elif mnemonic not in _PLAIN:
            raise self.error("this instruction is not modelled")
        self.steps.append(Step(*step, tuple(self.events), *state))
        if self.following is not None:
            self.pc = self.following

    def refuse_trapped(self, instruction: Instruction) -> None:
        """Refuse what HCR_EL2 traps: the program would go on at EL2."""
        if self.el == 0:
            self.refuse_at_el0(instruction)
        hcr = self.hcr()
        if self.el < 2 and hcr & ~_UNTRAPPING:
            for bit, name in TRAPS.get(trap_of(instruction), ()):
                if hcr >> bit & 1:
                    raise self.error(f"HCR_EL2.{name}=1 traps it, which is not modelled")

    def refuse_at_el0(self, instruction: Instruction) -> None:
        """Refuse what SCTLR_EL1, or SCTLR_EL2 of a host, traps at EL0."""
        name = f"SCTLR_EL{self.call_level()}"
        control = self.system.get(name, 0)
        row = EL0_TRAPS.get(el0_trap(instruction))
        if row is not None and not (isinstance(control, int) and control >> row[0] & 1):
            raise self.error(f"{name}.{row[1]}=0 traps it at EL0, which is not modelled")

    def compute(self, instruction: Instruction) -> None:
        row = OPERATIONS[instruction.mnemonic]
        width = instruction.width
        operands = instruction.operands
        sources = operands[1:] if row.destination else operands
        values = [self.operand(source, width) for source in sources]
        if row.reads == "destination":
            values.insert(0, self.operand(operands[0], width))
        elif row.reads == "carry":
            flags = self.flags
            values.insert(0, flags if isinstance(flags, Unknown) else flags >> 1 & 1)
        unknown = next((v for v in values if isinstance(v, Unknown)), None)
        result: Value | tuple[int, int]
        result = unknown if unknown is not None else row.compute(width, *values)
        if isinstance(result, tuple):
            result, self.flags = result
        elif row.flags:
            self.flags = result
        if row.destination:
            self.put(operands[0], result)

    # Memory

    def access(self, instruction: Instruction, access: Access) -> None:
        operands = instruction.operands
        registers = operands[: 2 if access.pair else 1]
        first = registers[0]
        assert isinstance(first, Register)
        size = access.size or first.width // 8
        address = self.address(operands[-1])
        base = operands[-1].base if isinstance(operands[-1], Memory) else None
        if base is not None and base.number == 31:
            pointer = self.known(self.get(base), "sp")
            if pointer % 16:
                raise self.error(f"SP {pointer:#x} is not a multiple of 16: SCTLR_ELx.SA faults")
        if address % size and instruction.mnemonic.startswith(("lda", "stl")):
            raise self.error(f"{address:#x} is not aligned: a fault without FEAT_LSE2")
        if access.store:
            for i, register in enumerate(registers):
                self.store((address + i * size) & ADDRESS_MASK, size, self.operand(register, 64))
            self.write_back(operands[-1])
            return
        self.events.append(Load(address, size * len(registers), address % size != 0))
        values = [
            self.load((address + i * size) & ADDRESS_MASK, size) for i in range(len(registers))
        ]
        self.write_back(operands[-1])
        for register, value in zip(registers, values, strict=True):
            if access.signed and isinstance(value, int):
                value = value - (1 << 8 * size) if value >> (8 * size - 1) else value
            self.put(register, value)

    # Control flow

    def branch(self, target: int) -> None:
        self.events.append(Branch(target))
        if target == self.pc:
            raise self.error("the program never ends: a branch to itself")
        self.following = target

    def branch_if(self, operands: tuple[Operand, ...], taken: Callable[[int], bool]) -> None:
        if taken(self.known(self.operand(operands[0], 64), "the condition")):
            self.branch(self.relative(operands[-1]))

    def test_bit(self, operands: tuple[Operand, ...], wanted: int) -> None:
        assert isinstance(operands[1], int)
        bit = operands[1]
        self.branch_if(operands, lambda value: value >> bit & 1 == wanted)

    def branch_register(self, operands: tuple[Operand, ...]) -> None:
        assert isinstance(operands[0], Register)
        self.landing = "br x16" if operands[0].number in (16, 17) else "br"
        self.branch(self.branch_address(self.known(self.operand(operands[0], 64), "the target")))

    def call_register(self, operands: tuple[Operand, ...]) -> None:
        target = self.branch_address(self.known(self.operand(operands[0], 64), "the target"))
        if target not in self.returns:
            self.landing = "blr"
        self.call(target)

    def branch_address(self, target: int) -> int:
        """*target* as it comes to the PC: without the tag that TCR_ELx.TBI ignores
        (AArch64.BranchAddr)."""
        el = 2 if self.el == 2 or self.hcr() >> 27 & self.hcr() >> 34 & 1 else 1
        two = el == 1 or bool(self.hcr() >> 34 & 1)
        upper = target >> 55 & 1 if two else 0
        tbi, tbid = (37 + upper, 51 + upper) if two else (20, 29)
        name = f"TCR_EL{el}"
        plain = target | 0xFF << 56 if upper else target & ~(0xFF << 56)
        values = {self.system.get(name, 0), *self.stale.get(name, ())}
        ignored = {isinstance(v, int) and v >> tbi & 1 and not v >> tbid & 1 for v in values}
        if plain != target and len(ignored) > 1:
            raise self.error(f"{name}.TBI is not synchronized: the tag of {target:#x} may count")
        return plain if True in ignored else target

    def call(self, target: int) -> None:
        """BL and BLR: into the code, or over a callee that is taken to return."""
        self.x[30] = self.pc + 4
        if target in self.returns:
            self.events.append(Branch(target))
            self.clobber(f"the call at {self.pc:#x}")
            return
        if self.code.fetch(target) is None:
            raise self.error(f"no code is given at {target:#x}")
        self.calls.append(self.pc + 4)
        self.branch(target)

    def clobber(self, by: str) -> None:
        """What a callee may change: x0-x17 and x30, and the flags."""
        for i in (*range(18), 30):
            self.x[i] = Unknown(f"changed by {by}")
        self.flags = Unknown(f"changed by {by}")

    def ret(self, operands: tuple[Operand, ...]) -> None:
        register = operands[0] if operands else Register(30, 64)
        target = self.operand(register, 64)
        target = self.branch_address(target) if isinstance(target, int) else target
        if self.calls and target == self.calls[-1]:
            self.branch(self.calls.pop())
        elif isinstance(target, Unknown) or (not operands and target == self.caller):
            self.ended = "returns to its caller"
            self.following = target if isinstance(target, int) else None
            self.events.append(Branch(self.following))
        else:
            self.branch(target)

    # Exceptions

    def enter(self, el: int, offset: int, back: int) -> None:
        """Take an exception to *el* at VBAR + *offset*, to return to *back* (D1.3)."""
        name = f"VBAR_EL{el}"
        vector = self.system.get(name, Unknown(f"{name} is not given"))
        target = (self.known(vector, name) & ~0x7FF) + offset
        if self.stale.get(name, set()) - {vector}:
            raise self.error(f"{name} is not synchronized: the exception may go to either vector")
        self.events.append(ExceptionEntry(el, target))
        spsr = Unknown(f"PSTATE at {self.pc:#x}")
        pstate = {name: self.system[name] for name in _PSTATE if name in self.system}
        self.saved[el] = (spsr, self.el, self.flags, pstate)
        self.system |= {f"ELR_EL{el}": back, f"SPSR_EL{el}": spsr, "SPSEL": 1, "DAIF": 0x3C0}
        self.el, self.following = el, target
        self.enter_pan(el)

    def pan(self) -> int | None:
        value = self.system.get("PAN")
        return value if isinstance(value, int) else None

    def without_pan(self) -> bool:
        features = self.system.get("ID_AA64MMFR1_EL1")
        return isinstance(features, int) and not features >> 20 & 15

    def enter_pan(self, el: int) -> None:
        """With SCTLR_ELx.SPAN=0 an exception to EL1, or to EL2 of a host, sets PSTATE.PAN."""
        host = self.hcr() >> 34 & 1 and self.hcr() >> 27 & 1
        control = self.system.get(f"SCTLR_EL{el}")
        spans = {value >> _SPAN & 1 for value in self.stale.get(f"SCTLR_EL{el}", ())}
        self.stale.clear()
        if (el == 2 and not host) or self.without_pan():
            return
        spans = spans | ({control >> _SPAN & 1} if isinstance(control, int) else {0, 1})
        if spans == {0}:
            self.system["PAN"] = 1
        elif spans != {1} and self.pan() != 1:
            self.system["PAN"] = Unknown(f"SCTLR_EL{el}.SPAN is not known")

    def fault(self) -> None:
        """A fetch that is meant to fault: the exception goes to the current EL."""
        self.events, self.current = [], None
        step = (self.pc, self.el, "(fetch meant to fault)", "")
        state = (self.hcr(), self.pan())
        there = self.code.fetch(self.pc)
        last = self.pc & 0xFFF == 0xFFC  # what is behind it is another page
        self.events.append(Abort(there is not None and there.mnemonic == "isb" and not last))
        to = self.call_level()
        same = 0x200 if self.system.get("SPSEL", 1) else 0
        self.enter(to, 0x400 if to > self.el else same, self.pc)
        self.steps.append(Step(*step, tuple(self.events), *state))
        self.pc = self.following or 0

    def call_level(self) -> int:
        """Where SVC goes: from EL0 to EL2 with HCR_EL2.TGE=1."""
        return 2 if self.el == 0 and self.hcr() >> 27 & 1 else max(self.el, 1)

    def call_exception(self, name: str, to: int) -> None:
        """HVC, SVC and SMC."""
        if name in self.returns:
            self.events += [ExceptionEntry(to, None), Eret(self.following, self.el)]
            self.clobber(f"the {name} at {self.pc:#x}")
        elif to > 2 or to < self.el or (self.el == 0 and name != "svc"):
            raise self.error(f"{name} at EL{self.el} is not modelled")
        else:
            same = 0x200 if self.system.get("SPSEL", 1) else 0
            self.enter(to, 0x400 if to > self.el else same, self.following or 0)

    def eret(self, _: tuple[Operand, ...]) -> None:
        el = self.el
        if el == 0:
            raise self.error("UNDEFINED at EL0")
        self.stale.clear()
        target = self.system.get(f"ELR_EL{el}")
        spsr = self.system.get(f"SPSR_EL{el}", Unknown(f"SPSR_EL{el} is not given"))
        self.following = target if isinstance(target, int) else None
        if el in self.saved and self.saved[el][0] is spsr:
            self.el, self.flags, pstate = self.saved[el][1:]
            self.system = {n: v for n, v in self.system.items() if n not in _PSTATE} | pstate
        elif self.following is not None or isinstance(spsr, int):
            value = self.known(spsr, f"SPSR_EL{el}")
            illegal = value >> 20 & 1 or value & 0b10010 or value & 0b1101 == 1
            if illegal or (value >> 2 & 3) > el:
                raise self.error(f"SPSR_EL{el} = {value:#x}: not an exception level to return to")
            self.el, self.flags = value >> 2 & 3, value >> 28 & 15
            self.system |= {"SPSEL": value & 1, "DAIF": value & 0x3C0, "PAN": value >> _PAN & 1}
        if self.el == 1 and el == 2 and self.hcr() >> 27 & 1:
            raise self.error("an illegal exception return: EL1 with HCR_EL2.TGE=1")
        if self.following is not None:
            self.following = self.branch_address(self.following)
        if self.following is None:
            self.ended = "returns from the exception"
        self.events.append(Eret(self.following, self.el))

    # System instructions

    def mrs(self, operands: tuple[Operand, ...]) -> None:
        name = self.system_name(operands[1])
        value = self.system.get(name, Unknown(f"{name} is not given"))
        if name == "CURRENTEL":
            value = self.el << 2
        elif name == "SPSEL":
            value = self.system.get(name, 1)
        elif name == "NZCV":
            value = self.flags if isinstance(self.flags, Unknown) else self.flags << 28
        elif name == "PAN" and isinstance(value, int):
            value <<= _PAN
        self.put(operands[0], value)

    def msr(self, operands: tuple[Operand, ...]) -> None:
        if isinstance(operands[1], int):
            assert isinstance(operands[0], str)
            self.set_pstate(operands[0], operands[1])
            return
        name = self.system_name(operands[0])
        if name.startswith(READ_ONLY) or name in ID_NAMES:
            raise self.error(f"{name} is read-only")
        value = self.operand(operands[1], 64)
        if name in TRANSLATION_REGISTERS:
            self.known(value, name)
        if name == "NZCV":
            self.flags = value if isinstance(value, Unknown) else value >> 28 & 15
        elif name == "SPSEL":
            self.system[name] = self.known(value, name) & 1
        elif name == "PAN":
            value = value if isinstance(value, Unknown) else value >> _PAN & 1
            self.system[name] = value
        else:
            self.keep(name)
            self.system[name] = value
        self.events.append(Msr(name, value if isinstance(value, int) else None))

    def keep(self, name: str) -> None:
        """Until synchronization the register may read as it was (K1.2.4): SCTLR_ELx.SPAN and VBAR
        for an exception, TCR_ELx.TBI for a branch."""
        old = self.system.get(name)
        if isinstance(old, int) or name.startswith("VBAR"):
            self.stale.setdefault(name, set()).add(old if isinstance(old, int) else _SOMEWHERE)

    def synchronize(self, _: tuple[Operand, ...]) -> None:
        self.stale.clear()
        self.events.append(Isb())

    def set_pstate(self, name: str, value: int) -> None:
        if LEAST_EL[PSTATE_FIELDS[name][0]] > self.el:
            raise self.error(f"UNDEFINED at EL{self.el}")
        if self.el == 0 and name in ("DAIFSET", "DAIFCLR"):
            raise self.error("at EL0 it depends on SCTLR_EL1.UMA, which is not modelled")
        self.events.append(Msr(name, value))
        daif = self.system.get("DAIF")
        if name in ("SPSEL", "PAN"):
            self.system[name] = value & 1
        elif name == "DAIFSET" and isinstance(daif, int):
            self.system["DAIF"] = daif | value << 6
        elif name == "DAIFCLR" and isinstance(daif, int):
            self.system["DAIF"] = daif & ~(value << 6)

    def barrier(self, operands: tuple[Operand, ...], event: type[Dsb] | type[Dmb]) -> None:
        option = operands[0]
        assert isinstance(option, str)
        if option.endswith("nxs"):
            self.events.append(Dsb(option[:-3].upper(), "", True))
        else:
            _, domain, kind = BARRIERS[option]
            self.events.append(event(domain, kind))

    def tlbi(self, operands: tuple[Operand, ...]) -> None:
        op = tlbi_by_name(str(operands[0]))
        assert op is not None
        if op.least > self.el:
            raise self.error(f"UNDEFINED at EL{self.el}")
        value = self.operand(operands[1], 64) if len(operands) > 1 else 0
        self.events.append(Tlbi(op, self.known(value, "the operand")))

    def require(self, mnemonic: str, operation: Operand) -> None:
        """Refuse a DC, IC or AT that this exception level does not have."""
        if LEAST_EL[SYSTEM_OPERATIONS[mnemonic][str(operation)][0]] > self.el:
            raise self.error(f"UNDEFINED at EL{self.el}")

    def cache(self, operands: tuple[Operand, ...]) -> None:
        self.require("dc", operands[0])
        operand = self.known(self.operand(operands[1], 64), "the operand")
        name = str(operands[0])
        if name != "ZVA":
            self.events.append(Dc(name, operand))
            return
        block = self.known(self.system.get("DCZID_EL0", Unknown("not given")), "DCZID_EL0")
        if block & 0x10:
            raise self.error("DCZID_EL0.DZP prohibits it")
        size = 4 << (block & 15)
        self.store(operand & ~(size - 1), size, 0, zva=True)

    def instruction_cache(self, operands: tuple[Operand, ...]) -> None:
        self.require("ic", operands[0])
        va = self.operand(operands[1], 64) if len(operands) > 1 else None
        va = None if va is None else self.known(va, "the operand")
        self.events.append(Ic(str(operands[0]), va))

    def translate(self, operands: tuple[Operand, ...]) -> None:
        self.require("at", operands[0])
        va = self.known(self.operand(operands[1], 64), "the operand")
        self.events.append(At(str(operands[0]), va))
        self.system["PAR_EL1"] = Unknown(f"the result of AT at {self.pc:#x}")


_PLAIN = frozenset((*HINTS, "hint", "bti", "sb", "ssbb", "pssbb", "clrex"))
"""No effect that the proof needs: a speculation barrier is no context synchronization event."""

_HANDLERS: dict[str, Callable[[_Run, tuple[Operand, ...]], None]] = {
    "adr": lambda r, o: r.put(o[0], r.relative(o[1])),
    "adrp": lambda r, o: r.put(o[0], r.relative(o[1])),
    "b": lambda r, o: r.branch(r.relative(o[0])),
    "bl": lambda r, o: r.call(r.relative(o[0])),
    "br": _Run.branch_register,
    "blr": _Run.call_register,
    "cbz": lambda r, o: r.branch_if(o, lambda value: value == 0),
    "cbnz": lambda r, o: r.branch_if(o, lambda value: value != 0),
    "tbz": lambda r, o: r.test_bit(o, 0),
    "tbnz": lambda r, o: r.test_bit(o, 1),
    **dict.fromkeys(("ret", "retaa", "retab"), _Run.ret),
    **dict.fromkeys(("eret", "eretaa", "eretab"), _Run.eret),
    "hvc": lambda r, o: r.call_exception("hvc", 2),
    "smc": lambda r, o: r.call_exception("smc", 3),
    "svc": lambda r, o: r.call_exception("svc", r.call_level()),
    "isb": _Run.synchronize,
    "dsb": lambda r, o: r.barrier(o, Dsb),
    "dmb": lambda r, o: r.barrier(o, Dmb),
    "msr": _Run.msr,
    "mrs": _Run.mrs,
    "tlbi": _Run.tlbi,
    "dc": _Run.cache,
    "ic": _Run.instruction_cache,
    "at": _Run.translate,
}
