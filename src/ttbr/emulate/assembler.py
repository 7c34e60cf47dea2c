"""A64 machine words of assembled text: what a CPU needs to run a program that a proof has read.

`ttbr.switch.assembly` reads the text and checks every operand; here each of its instructions
becomes a word. Mnemonics are rows of (encoder, opcode), the encoders the classes of Arm ARM C4.1.
Those that no switch sequence uses (multiplication, pointer authentication, byte reversal and such)
are left out and refused by name.
"""

from collections.abc import Callable, Mapping

from ttbr.arch.bits import ones
from ttbr.emulate import encode
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.switch.arithmetic import CONDITIONS
from ttbr.switch.assembly import Assembly, assemble
from ttbr.switch.instructions import ACCESSES, BARRIERS, HINTS
from ttbr.switch.operands import Condition, Memory, Operand, Register, Relative, Shifted
from ttbr.switch.program import Instruction
from ttbr.switch.sysregs import PSTATE_FIELDS, SYSTEM_OPERATIONS, encoding_of
from ttbr.switch.tlbi import tlbi_by_name

__all__ = ["machine_code", "word_of", "words"]

SHIFTS = {"lsl": 0, "lsr": 1, "asr": 2, "ror": 3}
EXTENDS = {"uxtb": 0, "uxth": 1, "uxtw": 2, "uxtx": 3, "sxtb": 4, "sxth": 5, "sxtw": 6, "sxtx": 7}
SYNONYMS = {"HS": "CS", "LO": "CC"}
ZR = Register(31, 64)

Operands = tuple[Operand, ...]
Encoder = Callable[[int, Instruction, Operands], "int | None"]


def _number(operand: Operand) -> int:
    """The register number or condition code of an operand, or an immediate itself."""
    if isinstance(operand, Register):
        return operand.number
    if isinstance(operand, Condition):
        return list(CONDITIONS).index(operand.name)
    assert isinstance(operand, int)
    return operand


def _sf(instruction: Instruction) -> int:
    return (instruction.width == 64) << 31


def _fixed(word: int, instruction: Instruction, operands: Operands) -> int | None:
    return None if operands else word


def _immediate16(word: int, instruction: Instruction, operands: Operands) -> int:
    return word | _number(operands[0]) << 5


def _hint(word: int, instruction: Instruction, operands: Operands) -> int:
    number = HINTS.get(instruction.mnemonic)
    return word | (_number(operands[0]) if number is None else number) << 5


def _barrier(word: int, instruction: Instruction, operands: Operands) -> int:
    option = operands[0] if operands else "sy"
    assert isinstance(option, str)
    if option.endswith("nxs"):  # DSB only, C6.2 "DSB", memory nXS barrier
        return 0xD503323F | ("osh", "nsh", "ish", "sy").index(option[:-3]) << 10
    return word | BARRIERS[option][0] << 8


def _isb(word: int, instruction: Instruction, operands: Operands) -> int:
    return word


def _system(word: int, instruction: Instruction, operands: Operands) -> int:
    """SYS: TLBI, DC, IC, AT by name."""
    name = operands[0]
    assert isinstance(name, str)
    rt = _number(operands[1]) if len(operands) > 1 else 31
    if instruction.mnemonic == "tlbi":
        op = tlbi_by_name(name)
        assert op is not None
        place = ("NSH", "ISH", "OSH").index(op.shareability)
        op1, crn = dict(op.kind.op1_by_el)[op.el], 9 if op.nxs else 8
        crm, op2 = op.kind.crm[place], op.kind.op2[place]
    else:
        op1, crn, crm, op2 = SYSTEM_OPERATIONS[instruction.mnemonic][name]
    return word | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | rt


def _move_system(word: int, instruction: Instruction, operands: Operands) -> int | None:
    """MSR and MRS, with a register or, for a PSTATE field, an immediate."""
    name, value = operands if isinstance(operands[0], str) else operands[::-1]
    assert isinstance(name, str)
    if isinstance(value, int):
        op1, op2 = PSTATE_FIELDS[name]
        return 0xD500401F | op1 << 16 | value << 8 | op2 << 5
    encoding = encoding_of(name)
    if encoding is None:
        return None
    op0, op1, crn, crm, op2 = encoding
    return word | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | _number(value)


def _branch_register(word: int, instruction: Instruction, operands: Operands) -> int:
    return word | (_number(operands[0]) if operands else 30) << 5


def _distance(operand: Operand, width: int) -> int:
    assert isinstance(operand, Relative)
    return operand.offset >> 2 & ones(width)


def _branch(word: int, instruction: Instruction, operands: Operands) -> int:
    return word | _distance(operands[0], 26)


def _branch_condition(word: int, instruction: Instruction, operands: Operands) -> int:
    name = instruction.mnemonic[2:].upper()
    name = SYNONYMS.get(name, name)
    return word | _distance(operands[0], 19) << 5 | list(CONDITIONS).index(name)


def _compare_branch(word: int, instruction: Instruction, operands: Operands) -> int:
    return word | _sf(instruction) | _distance(operands[1], 19) << 5 | _number(operands[0])


def _test_branch(word: int, instruction: Instruction, operands: Operands) -> int:
    bit = _number(operands[1])
    word |= (bit >> 5) << 31 | (bit & 31) << 19
    return word | _distance(operands[2], 14) << 5 | _number(operands[0])


def _address(word: int, instruction: Instruction, operands: Operands) -> int:
    target = operands[1]
    assert isinstance(target, Relative)
    offset = target.offset >> 12 if target.page else target.offset
    return word | (offset & 3) << 29 | (offset >> 2 & ones(19)) << 5 | _number(operands[0])


def _wide(word: int, instruction: Instruction, operands: Operands) -> int:
    value, shift = _number(operands[1]), _number(operands[2])
    return word | _sf(instruction) | shift // 16 << 21 | value << 5 | _number(operands[0])


def _bitmask(value: int, width: int) -> int:
    """N, immr, imms of a bitmask immediate, in place (DecodeBitMasks, Arm ARM J1)."""
    size = width
    while size > 2 and value & ones(size // 2) == value >> size // 2 & ones(size // 2):
        size //= 2
        value &= ones(size)
    run = value.bit_count()
    rotation = next(
        r for r in range(size) if (value << r | value >> size - r) & ones(size) == ones(run)
    )
    imms = (run - 1) | (ones(6) & ~(2 * size - 1))
    return (size == 64) << 22 | rotation << 16 | imms << 10


def _mov(word: int, instruction: Instruction, operands: Operands) -> int:
    """MOV as one of MOVZ, MOVN, ORR (immediate), ADD (to or from SP), ORR (register)."""
    rd, source, width = operands[0], operands[1], instruction.width
    assert isinstance(rd, Register)
    sf = _sf(instruction)
    if isinstance(source, Register):
        if rd.sp or source.sp:
            return sf | 0x11000000 | source.number << 5 | rd.number
        return sf | 0x2A0003E0 | source.number << 16 | rd.number
    value = _number(source)
    for inverted, opcode in ((0, 0x52800000), (ones(width), 0x12800000)):
        for shift in range(0, width, 16) if not rd.sp else ():
            if (value ^ inverted) & ~(0xFFFF << shift) == 0:
                part = (value ^ inverted) >> shift
                return sf | opcode | shift // 16 << 21 | part << 5 | rd.number
    return sf | 0x320003E0 | _bitmask(value, width) | rd.number


def _as_shifted(operand: Operand) -> Shifted:
    if isinstance(operand, Shifted):
        return operand
    assert isinstance(operand, Register)
    return Shifted(operand, "lsl", 0)


def _register_form(word: int, rd: int, rn: int, operand: Operand) -> int:
    shifted = _as_shifted(operand)
    word |= SHIFTS[shifted.kind] << 22 | shifted.register.number << 16 | shifted.amount << 10
    return word | rn << 5 | rd


def _add(word: int, instruction: Instruction, operands: Operands) -> int:
    """ADD, SUB with or without S: immediate, shifted register or extended register."""
    rd, rn, last = operands
    word |= _sf(instruction)
    d, n = _number(rd), _number(rn)
    if isinstance(last, int):
        high = last > 0xFFF
        return word | 0x11000000 | high << 22 | (last >> 12 * high) << 10 | n << 5 | d
    if isinstance(last, Shifted) and last.kind in EXTENDS:
        word |= 0x0B200000 | last.register.number << 16 | EXTENDS[last.kind] << 13
        return word | last.amount << 10 | n << 5 | d
    return _register_form(word | 0x0B000000, d, n, last)


def _compare(word: int, instruction: Instruction, operands: Operands) -> int:
    return _add(word, instruction, (ZR, *operands))


def _negate(word: int, instruction: Instruction, operands: Operands) -> int:
    return _add(word, instruction, (operands[0], ZR, operands[1]))


def _logical(word: int, instruction: Instruction, operands: Operands) -> int:
    """AND, ORR, EOR, ANDS; BIC and the other inverted ones have registers only."""
    rd, rn, last = operands
    word |= _sf(instruction)
    if isinstance(last, int):
        word |= 0x12000000 | _bitmask(last, instruction.width)
        return word | _number(rn) << 5 | _number(rd)
    return _register_form(word | 0x0A000000, _number(rd), _number(rn), last)


def _test(word: int, instruction: Instruction, operands: Operands) -> int:
    return _logical(word, instruction, (ZR, *operands))


def _mvn(word: int, instruction: Instruction, operands: Operands) -> int:
    return _logical(word, instruction, (operands[0], ZR, operands[1]))


def _bitfield(word: int, instruction: Instruction, rd: int, rn: int, immr: int, imms: int) -> int:
    word |= _sf(instruction) | (instruction.width == 64) << 22
    return word | immr << 16 | imms << 10 | rn << 5 | rd


def _insert(word: int, instruction: Instruction, operands: Operands) -> int:
    """BFI, UBFIZ, SBFIZ, and BFC with the zero register as its source."""
    rd, *middle, lsb, size = (_number(operand) for operand in operands)
    rn = middle[0] if middle else 31
    return _bitfield(word, instruction, rd, rn, -lsb % instruction.width, size - 1)


def _extract(word: int, instruction: Instruction, operands: Operands) -> int:
    """UBFX, SBFX, BFXIL."""
    rd, rn, lsb, size = (_number(operand) for operand in operands)
    return _bitfield(word, instruction, rd, rn, lsb, lsb + size - 1)


def _bfm(word: int, instruction: Instruction, operands: Operands) -> int:
    rd, rn, immr, imms = (_number(operand) for operand in operands)
    return _bitfield(word, instruction, rd, rn, immr, imms)


def _shift(word: int, instruction: Instruction, operands: Operands) -> int | None:
    """LSL, LSR, ASR by an immediate (UBFM, SBFM) or by a register (*word* is for that)."""
    rd, rn, width = _number(operands[0]), _number(operands[1]), instruction.width
    last = operands[2]
    if isinstance(last, Register):
        return word | _sf(instruction) | last.number << 16 | rn << 5 | rd
    if instruction.mnemonic == "ror":
        return None
    amount = _number(last)
    opcode = 0x13000000 if instruction.mnemonic == "asr" else 0x53000000
    if instruction.mnemonic == "lsl":
        return _bitfield(opcode, instruction, rd, rn, -amount % width, width - 1 - amount)
    return _bitfield(opcode, instruction, rd, rn, amount, width - 1)


def _select(word: int, instruction: Instruction, operands: Operands) -> int:
    rd, rn, rm, condition = (_number(operand) for operand in operands)
    return word | _sf(instruction) | rm << 16 | condition << 12 | rn << 5 | rd


def _access(word: int, instruction: Instruction, operands: Operands) -> int | None:
    """A load or store of one register, in each addressing mode; a load of a literal."""
    access, place = ACCESSES[instruction.mnemonic], operands[1]
    if isinstance(place, Relative):
        opc = 2 if access.signed else instruction.width == 64
        return 0x18000000 | opc << 30 | _distance(place, 19) << 5 | _number(operands[0])
    size = access.size or instruction.width // 8
    opc = (0 if access.store else 1) if not access.signed else (2 if instruction.width == 64 else 3)
    word = (size.bit_length() - 1) << 30 | 0x38000000 | opc << 22 | _number(operands[0])
    if not isinstance(place, Memory) or place.base is None:
        return None
    word |= place.base.number << 5
    if place.index is not None:
        index = place.index
        word |= 1 << 21 | index.register.number << 16 | EXTENDS[index.kind] << 13
        return word | (index.amount > 0) << 12 | 2 << 10
    unscaled = instruction.mnemonic.startswith(("ldu", "stu"))
    if place.mode == "offset" and not unscaled:
        if place.offset >= 0 and place.offset % size == 0:
            return word | 1 << 24 | place.offset // size << 10
        unscaled = True
    mode = 0 if unscaled else {"post": 1, "pre": 3}[place.mode]
    return word | (place.offset & ones(9)) << 12 | mode << 10


def _ordered(word: int, instruction: Instruction, operands: Operands) -> int:
    """LDAR, STLR and LDAPR: the size stands in the mnemonic, else in the register."""
    place = operands[1]
    assert isinstance(place, Memory)
    assert place.base is not None
    size = {"b": 0, "h": 1}.get(instruction.mnemonic[-1], 2 + (instruction.width == 64))
    return word | size << 30 | place.base.number << 5 | _number(operands[0])


def _pair(word: int, instruction: Instruction, operands: Operands) -> int:
    """LDP and STP."""
    first, second, place = operands
    assert isinstance(place, Memory)
    assert place.base is not None
    word |= _sf(instruction) | {"post": 1, "offset": 2, "pre": 3}[place.mode] << 23
    word |= (place.offset // (instruction.width // 8) & ones(7)) << 15
    return word | _number(second) << 10 | place.base.number << 5 | _number(first)


ENCODERS: dict[str, tuple[Encoder, int]] = {
    "isb": (_isb, encode.ISB),
    "dsb": (_barrier, 0xD503309F),
    "dmb": (_barrier, 0xD50330BF),
    "msr": (_move_system, 0xD5000000),
    "mrs": (_move_system, 0xD5200000),
    **dict.fromkeys(("tlbi", "dc", "ic", "at"), (_system, 0xD5080000)),
    **dict.fromkeys((*HINTS, "hint"), (_hint, 0xD503201F)),
    "eret": (_fixed, encode.ERET),
    "sb": (_fixed, 0xD50330FF),
    "svc": (_immediate16, 0xD4000001),
    "hvc": (_immediate16, 0xD4000002),
    "smc": (_immediate16, 0xD4000003),
    "br": (_branch_register, 0xD61F0000),
    "blr": (_branch_register, 0xD63F0000),
    "ret": (_branch_register, 0xD65F0000),
    "b": (_branch, 0x14000000),
    **{f"b.{name.lower()}": (_branch_condition, 0x54000000) for name in (*CONDITIONS, *SYNONYMS)},
    "bl": (_branch, 0x94000000),
    "cbz": (_compare_branch, 0x34000000),
    "cbnz": (_compare_branch, 0x35000000),
    "tbz": (_test_branch, 0x36000000),
    "tbnz": (_test_branch, 0x37000000),
    "adr": (_address, 0x10000000),
    "adrp": (_address, 0x90000000),
    "mov": (_mov, 0),
    "movn": (_wide, 0x12800000),
    "movz": (_wide, 0x52800000),
    "movk": (_wide, 0x72800000),
    "add": (_add, 0),
    "adds": (_add, 1 << 29),
    "sub": (_add, 1 << 30),
    "subs": (_add, 3 << 29),
    "cmn": (_compare, 1 << 29),
    "cmp": (_compare, 3 << 29),
    "neg": (_negate, 1 << 30),
    "negs": (_negate, 3 << 29),
    "and": (_logical, 0),
    "orr": (_logical, 1 << 29),
    "eor": (_logical, 2 << 29),
    "ands": (_logical, 3 << 29),
    "bic": (_logical, 1 << 21),
    "orn": (_logical, 1 << 29 | 1 << 21),
    "eon": (_logical, 2 << 29 | 1 << 21),
    "bics": (_logical, 3 << 29 | 1 << 21),
    "tst": (_test, 3 << 29),
    "mvn": (_mvn, 1 << 29 | 1 << 21),
    "sbfiz": (_insert, 0x13000000),
    "bfi": (_insert, 0x33000000),
    "bfc": (_insert, 0x33000000),
    "ubfiz": (_insert, 0x53000000),
    "sbfx": (_extract, 0x13000000),
    "bfxil": (_extract, 0x33000000),
    "ubfx": (_extract, 0x53000000),
    "sbfm": (_bfm, 0x13000000),
    "bfm": (_bfm, 0x33000000),
    "ubfm": (_bfm, 0x53000000),
    "lsl": (_shift, 0x1AC02000),
    "lsr": (_shift, 0x1AC02400),
    "asr": (_shift, 0x1AC02800),
    "ror": (_shift, 0x1AC02C00),
    "csel": (_select, 0x1A800000),
    "csinc": (_select, 0x1A800400),
    "csinv": (_select, 0x5A800000),
    "csneg": (_select, 0x5A800400),
    **{
        name: (_access, 0)
        for name, access in ACCESSES.items()
        if not access.pair and name[2] in "ru" and not name.startswith("ldap")
    },
    **dict.fromkeys(("ldar", "ldarb", "ldarh"), (_ordered, 0x08DFFC00)),
    **dict.fromkeys(("stlr", "stlrb", "stlrh"), (_ordered, 0x089FFC00)),
    **dict.fromkeys(("ldapr", "ldaprb", "ldaprh"), (_ordered, 0x38BFC000)),
    "ldp": (_pair, 0x28400000),
    "stp": (_pair, 0x28000000),
}
"""Mnemonic -> its encoder and the bits that are its own."""


def word_of(instruction: Instruction) -> int:
    """The machine word of *instruction*; `UnsupportedError` for one that `ENCODERS` lacks."""
    encoder, opcode = ENCODERS.get(instruction.mnemonic, (None, 0))
    word = None if encoder is None else encoder(opcode, instruction, instruction.operands)
    if word is None:
        where = f"{instruction.where}: " if instruction.where else ""
        raise UnsupportedError(f"{where}{instruction.text}: no machine word for this instruction")
    return word


def machine_code(code: Assembly) -> bytes:
    """The bytes of *code* from its entry on, literal pools and data included."""
    pieces = {
        at: word_of(instruction).to_bytes(4, "little")
        for at, instruction in code.instructions.items()
    } | dict(code.data)
    if not pieces:
        raise InvalidError("the program has no instructions")
    end = max(at + len(data) for at, data in pieces.items())
    image = bytearray(end - code.entry)
    for at, data in pieces.items():
        image[at - code.entry : at - code.entry + len(data)] = data
    return bytes(image)


def words(text: str, base: int = 0, symbols: Mapping[str, int] | None = None) -> bytes:
    """The bytes of GNU assembly *text* at *base*. Errors name line and column."""
    return machine_code(assemble(text, base, symbols=symbols))
