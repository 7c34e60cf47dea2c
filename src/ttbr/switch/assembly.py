"""Assembly text, as the GNU assembler reads it, into instructions by address.

Labels (named and numeric), comments, expressions, symbols, literal pools and the data directives
are supported; sections, macros and the C preprocessor are not, and neither is any instruction that
the proof does not know: each is refused with its line and column. One notation is ours:
``[symbol]`` without a base register is the place of that name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ttbr.arch.bits import ones
from ttbr.errors import InvalidError, MemoryFault
from ttbr.switch.forms import match_operands, wide_constant
from ttbr.switch.instructions import FORMS
from ttbr.switch.operands import Register, Relative
from ttbr.switch.program import Instruction
from ttbr.switch.syntax import Literal, Scanner

__all__ = ["Assembly", "assemble"]

_DATA = {
    **dict.fromkeys((".byte",), 1),
    **dict.fromkeys((".hword", ".short", ".2byte"), 2),
    **dict.fromkeys((".word", ".long", ".int", ".4byte"), 4),
    **dict.fromkeys((".quad", ".xword", ".dword", ".8byte"), 8),
}
_IGNORED = frozenset(
    (".text", ".global", ".globl", ".type", ".size", ".arch", ".arch_extension", ".cpu", ".hidden")
)
_COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"', re.DOTALL)
_LABEL = re.compile(r"\s*([A-Za-z_.$][\w.$]*|\d+)\s*:(?!:)")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_.$][\w.$]*)\s*=(?!=)")
_WORD = re.compile(r"\s*([A-Za-z_.][\w.]*)")
_MAX_SIZE = 1 << 24


@dataclass(frozen=True, slots=True)
class Assembly:
    """An assembled program (a `Code`).

    `end` is where the text ends, before the literal pool that follows it: a program that runs on
    from its last instruction is over. `symbols` holds every label and constant by name; `data` the
    bytes that directives and literal pools put between the instructions.
    """

    entry: int
    end: int
    instructions: Mapping[int, Instruction]
    symbols: Mapping[str, int]
    data: Mapping[int, bytes]

    def fetch(self, pc: int) -> Instruction | None:
        """The instruction at *pc*; `InvalidError` inside the program where there is none."""
        found = self.instructions.get(pc)
        if found is None and self.entry <= pc < self.end:
            raise InvalidError(f"{pc:#x}: the program runs into data or between instructions")
        return found

    def read(self, address: int, size: int) -> bytes:
        """Data of the program; the bytes of its instructions are not known."""
        for start, content in self.data.items():
            if start <= address and address + size <= start + len(content):
                return content[address - start : address - start + size]
        raise MemoryFault(address, size, "not data of the program")


@dataclass(frozen=True, slots=True)
class _Statement:
    """A statement without its labels: the word it begins with and the rest, where it is."""

    word: str
    rest: str
    line: int
    column: int
    rest_column: int
    order: int
    address: int = 0


def _without_comments(text: str) -> str:
    """Comments become spaces, so that columns stay; ``#`` opens one only at a line's start."""

    def blank(match: re.Match[str]) -> str:
        found = match[0]
        return found if found[0] == '"' else re.sub(r"[^\n]", " ", found)

    return re.sub(r"(?m)^(\s*)#.*$", r"\1", _COMMENT.sub(blank, text))


@dataclass(slots=True)
class _Assembler:
    """Two passes: places and labels, then operands."""

    name: str
    base: int
    symbols: dict[str, int]
    constants: set[str]
    address: int = 0
    end: int = 0
    order: int = 0
    local: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    waiting: list[tuple[int, str, _Statement]] = field(default_factory=list)
    literals: dict[int, int] = field(default_factory=dict)
    placed: list[tuple[int, int, _Statement]] = field(default_factory=list)
    code: list[_Statement] = field(default_factory=list)
    fixed: list[tuple[int, int, _Statement]] = field(default_factory=list)
    data: dict[int, bytes] = field(default_factory=dict)
    padding: list[int] = field(default_factory=list)

    def scanner(self, statement: _Statement) -> Scanner:
        def lookup(name: str) -> int | None:
            return self.lookup(name, statement)

        return Scanner(
            statement.rest, f"{self.name}:{statement.line}", statement.rest_column, lookup
        )

    def error(self, statement: _Statement, message: str) -> InvalidError:
        return InvalidError(f"{self.name}:{statement.line}:{statement.column}: {message}")

    def lookup(self, name: str, statement: _Statement) -> int | None:
        if name == ".":
            return statement.address
        if name[0].isdigit():
            places = self.local.get(name[:-1], [])
            if name[-1] == "b":
                before = [a for order, a in places if order <= statement.order]
                return before[-1] if before else None
            return next((a for order, a in places if order > statement.order), None)
        return self.symbols.get(name)

    # First pass

    def first_pass(self, text: str, first: int) -> None:
        self.address = self.base
        for number, line in enumerate(_without_comments(text).split("\n"), first):
            position = 0
            for part in line.split(";"):
                self.statement(part, number, position)
                position += len(part) + 1
        self.end = self.address
        end = _Statement(".ltorg", "", text.count("\n") + first, 1, 1, self.order, self.address)
        self.place_literals(end)

    def statement(self, part: str, line: int, position: int) -> None:
        while (label := _LABEL.match(part)) is not None:
            self.order += 1
            self.label(label[1], line, position + label.start(1) + 1)
            part, position = part[label.end() :], position + label.end()
        if not part.strip():
            return
        assignment = _ASSIGNMENT.match(part)
        word = assignment or _WORD.match(part)
        column = position + len(part) - len(part.lstrip()) + 1
        if word is None:
            raise InvalidError(f"{self.name}:{line}:{column}: expected an instruction")
        found = _Statement(
            ".set" if assignment else word[1].lower(),
            f"{word[1]}," + part[word.end() :] if assignment else part[word.end() :],
            line,
            column,
            position + (word.start(1) if assignment else word.end()),
            self.order,
            self.address,
        )
        if found.word[0] == ".":
            self.directive(found)
        else:
            self.instruction(found)

    def label(self, name: str, line: int, column: int) -> None:
        if name.isdigit():
            self.local.setdefault(str(int(name)), []).append((self.order, self.address))
        elif name in self.symbols:
            raise InvalidError(f"{self.name}:{line}:{column}: {name} is already defined")
        else:
            self.symbols[name] = self.address

    def instruction(self, statement: _Statement) -> None:
        if self.address % 4:
            raise self.error(statement, f"instruction at {self.address:#x}, not a multiple of 4")
        self.code.append(statement)
        if statement.word == "ldr" and "=" in statement.rest:
            self.literal(statement)
        self.advance(4, statement)

    def literal(self, statement: _Statement) -> None:
        """``ldr x0, =value``: one move where that is possible, else a pool entry (as GNU as)."""
        register, source = (part.strip() for part in statement.rest.split("=", 1))
        size = 4 if register[:1].lower() == "w" else 8
        scanner = self.scanner(statement)
        scanner.symbols = lambda name: 0 if name not in self.constants else self.symbols[name]
        names = {t.text for t in scanner.tokens if t.kind == "name"} - {register}
        if names <= self.constants:
            parsed = scanner.operands()
            value = parsed[-1].value
            if isinstance(value, Literal) and wide_constant(value.value & ones(8 * size), 8 * size):
                return
        self.waiting.append((size, source, statement))

    def place_literals(self, statement: _Statement) -> None:
        for size in (4, 8):
            seen: dict[str, int] = {}
            for wanted, source, user in self.waiting:
                if wanted != size:
                    continue
                if source not in seen:
                    self.align(size, statement, code=False)
                    seen[source] = self.address
                    self.placed.append((self.address, size, user))
                    self.advance(size, statement)
                self.literals[user.address] = seen[source]
        self.waiting.clear()

    def advance(self, count: int, statement: _Statement) -> None:
        self.address += count
        if self.address - self.base > _MAX_SIZE:
            raise self.error(statement, "the program is larger than 16 MB")

    def align(self, unit: int, statement: _Statement, code: bool = True) -> None:
        while self.address % unit:
            step = 4 if code and self.address % 4 == 0 else 1
            if step == 4:
                self.padding.append(self.address)
            self.advance(step, statement)

    def directive(self, statement: _Statement) -> None:
        word = statement.word
        if word in _IGNORED:
            return
        scanner = self.scanner(statement)
        if word in _DATA:
            count = statement.rest.count(",") + 1
            self.fixed.append((self.address, _DATA[word], statement))
            self.advance(count * _DATA[word], statement)
        elif word in (".equ", ".set"):
            self.define(scanner)
        elif word in (".ltorg", ".pool"):
            self.place_literals(statement)
        elif word in (".align", ".p2align", ".balign", ".org", ".skip", ".space"):
            self.move(word, scanner, statement)
        else:
            raise self.error(statement, f"{word}: this directive is not supported")

    def define(self, scanner: Scanner) -> None:
        token = scanner.next()
        if token.kind != "name":
            raise scanner.error("expected a name", token)
        scanner.expect(",")
        value = scanner.expression()
        scanner.finish()
        if token.text in self.symbols and token.text not in self.constants:
            raise scanner.error(f"{token.text} is already a label", token)
        self.symbols[token.text] = value
        self.constants.add(token.text)

    def move(self, word: str, scanner: Scanner, statement: _Statement) -> None:
        value = scanner.expression()
        scanner.finish()
        if word in (".skip", ".space"):
            if value < 0:
                raise self.error(statement, f"{word} {value}")
            self.advance(value, statement)
        elif word == ".org":
            if value < self.address:
                raise self.error(statement, f".org {value:#x} goes back from {self.address:#x}")
            self.advance(value - self.address, statement)
        else:
            if word != ".balign":
                value = 1 << value if 0 <= value <= 16 else 0
            if value <= 0 or value & (value - 1) or value > 1 << 16:
                raise self.error(statement, f"{word}: not an alignment up to 64 KB")
            self.align(value, statement)

    # Second pass

    def second_pass(self) -> dict[int, Instruction]:
        found = {}
        for statement in self.code:
            found[statement.address] = self.encode(statement)
        for address in self.padding:
            found[address] = Instruction("nop", (), 64, "nop", f"{self.name}: alignment")
        for address, size, statement in self.placed:
            value = self.scanner(statement).operands()[-1].value
            assert isinstance(value, Literal)
            self.put(statement, address, size, value.value)
        for address, size, statement in self.fixed:
            scanner = self.scanner(statement)
            for i, parsed in enumerate(_expressions(scanner)):
                self.put(statement, address + i * size, size, parsed)
        return found

    def put(self, statement: _Statement, address: int, size: int, value: int) -> None:
        if not -(1 << (8 * size - 1)) <= value < 1 << 8 * size:
            raise self.error(statement, f"{value:#x} does not fit in {size} bytes")
        self.data[address] = (value & ones(8 * size)).to_bytes(size, "little")

    def encode(self, statement: _Statement) -> Instruction:
        scanner = self.scanner(statement)
        word, where = statement.word, f"{self.name}:{statement.line}"
        text = " ".join((word + " " + statement.rest).split())
        if f"b.{word[1:]}" in FORMS and word[0] == "b":
            word = f"b.{word[1:]}"
        parsed = scanner.operands()
        literal = parsed[-1].value if parsed else None
        if word == "ldr" and isinstance(literal, Literal):
            return self.load_literal(statement, scanner, literal, text)
        mnemonic, operands, width = match_operands(
            word, scanner, parsed, statement.address, statement.column
        )
        return Instruction(mnemonic, operands, width, text, where)

    def load_literal(
        self, statement: _Statement, scanner: Scanner, literal: Literal, text: str
    ) -> Instruction:
        target = scanner.tokens[0].text
        register = self.scanner(statement).operands()[0].value
        if not isinstance(register, Register) or register.sp:
            raise self.error(statement, f"ldr: {target} cannot be loaded")
        where = f"{self.name}:{statement.line}"
        place = self.literals.get(statement.address)
        if place is None:
            value = literal.value & ones(register.width)
            return Instruction("mov", (register, value), register.width, text, where)
        operands = (register, Relative(place - statement.address))
        return Instruction("ldr", operands, register.width, text, where)


def _expressions(scanner: Scanner) -> list[int]:
    values = [scanner.expression()]
    while scanner.accept(","):
        values.append(scanner.expression())
    scanner.finish()
    return values


def assemble(
    text: str,
    base: int = 0,
    name: str = "program",
    symbols: Mapping[str, int] | None = None,
    line: int = 1,
) -> Assembly:
    """The program in *text*, its first byte at *base*.

    *symbols* are constants that the text may use: places, register values. *line* is the number of
    the text's first line in the file *name*. `InvalidError` names line and column;
    `UnsupportedError` (also one) an instruction that is not modelled.
    """
    if base % 4 or not 0 <= base < 1 << 64:
        raise InvalidError(f"{name}: base {base:#x} is not a multiple of 4 within 64 bits")
    constants = dict(symbols or {})
    work = _Assembler(name, base, constants, set(constants))
    work.first_pass(text, line)
    instructions = work.second_pass()
    return Assembly(base, work.end, instructions, work.symbols, work.data)
