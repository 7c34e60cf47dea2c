"""The letters of GNU assembly: tokens, expressions and operands of one statement.

Expressions follow the GNU assembler: ``* / % << >>`` bind tightest, then ``| & ^``, then ``+ -``.
Every error names the source, line and column.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ttbr.errors import InvalidError
from ttbr.switch.operands import Register

__all__ = [
    "Address",
    "Literal",
    "Name",
    "Parsed",
    "Part",
    "Scanner",
    "Shift",
    "Token",
    "register_named",
]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]+|0[bB][01]+|\d+[fb]\b|\d+)"
    r"|(?P<name>[A-Za-z_.$][\w.$]*)"
    r"|(?P<string>\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<mark><<|>>|[-+*/%|&^~()\[\]#,=!:{}]))"
)
_SPACE = re.compile(r"\s*")
_PRIORITY = {"*": 3, "/": 3, "%": 3, "<<": 3, ">>": 3, "|": 2, "&": 2, "^": 2, "+": 1, "-": 1}
_SHIFTS = frozenset(
    ("lsl", "lsr", "asr", "ror", "uxtb", "uxth", "uxtw", "uxtx", "sxtb", "sxth", "sxtw", "sxtx")
)
_NAMED_REGISTERS = {
    "sp": Register(31, 64, True),
    "wsp": Register(31, 32, True),
    "xzr": Register(31, 64),
    "wzr": Register(31, 32),
    "ip0": Register(16, 64),
    "ip1": Register(17, 64),
    "fp": Register(29, 64),
    "lr": Register(30, 64),
}
_REGISTER = re.compile(r"([xw])([0-9]|[12][0-9]|30)")
_PARTS = {f"abs_g{i}{suffix}": 16 * i for i in range(4) for suffix in ("", "_nc")}
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its column, counted from 1. `kind` is number, name, string, mark or end."""

    kind: str
    text: str
    column: int


@dataclass(frozen=True, slots=True)
class Shift:
    """``lsl #3``, or ``uxtw`` without an amount (None)."""

    kind: str
    amount: int | None


@dataclass(frozen=True, slots=True)
class Name:
    """A lone name: a condition, an option, a system register or a symbol."""

    text: str


@dataclass(frozen=True, slots=True)
class Literal:
    """``=expression``: a constant to be loaded. `symbolic` when it names a symbol."""

    value: int
    symbolic: bool


@dataclass(frozen=True, slots=True)
class Part:
    """``:abs_g1:symbol``: 16 bits of an address for MOVZ or MOVK, and where they stand in it."""

    value: int
    shift: int


@dataclass(frozen=True, slots=True)
class Address:
    """``[base, offset or index, shift]`` and whether ``!`` follows; `base` None: a named place."""

    base: Register | None
    offset: int | None
    index: Register | None
    shift: Shift | None
    writeback: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """One operand as written, with the column where it starts."""

    value: Register | Shift | Name | Literal | Address | Part | int
    column: int


def register_named(name: str) -> Register | None:
    """The general-purpose register of that name, or None."""
    name = name.lower()
    match = _REGISTER.fullmatch(name)
    if match:
        return Register(int(match[2]), 64 if match[1] == "x" else 32)
    return _NAMED_REGISTERS.get(name)


def no_symbols(name: str) -> int | None:
    """A symbol table with nothing in it."""
    return None


@dataclass(slots=True)
class Scanner:
    """Reads one statement. `symbols` maps a name to its value; `where` is ``name:line``."""

    text: str
    where: str
    start: int = 0
    symbols: Callable[[str], int | None] = no_symbols
    tokens: list[Token] = field(init=False)
    index: int = 0
    depth: int = 0
    symbolic: bool = False

    def __post_init__(self) -> None:
        self.tokens = []
        position = 0
        while (match := _TOKEN.match(self.text, position)) is not None:
            kind = str(match.lastgroup)
            column = self.start + match.start(kind) + 1
            self.tokens.append(Token(kind, match[kind], column))
            position = match.end()
        space = _SPACE.match(self.text, position)
        position = space.end() if space else position
        end = Token("end", "", self.start + position + 1)
        if position < len(self.text):
            raise self.error(f"unexpected {self.text[position]!r}", end)
        self.tokens.append(end)

    def error(self, message: str, token: Token | None = None) -> InvalidError:
        """An error at *token*, by default the next one."""
        return self.error_at(message, (token or self.peek()).column)

    def error_at(self, message: str, column: int) -> InvalidError:
        """An error at a column."""
        return InvalidError(f"{self.where}:{column}: {message}")

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one further on, without taking it."""
        return self.tokens[min(self.index + ahead, len(self.tokens) - 1)]

    def next(self) -> Token:
        """Take the next token."""
        token = self.peek()
        self.index += 1
        return token

    def accept(self, mark: str) -> bool:
        """Take the next token if it is this mark."""
        if self.peek().kind == "mark" and self.peek().text == mark:
            self.index += 1
            return True
        return False

    def expect(self, mark: str) -> None:
        """Take this mark, or fail."""
        if not self.accept(mark):
            found = self.peek().text or "the end of the statement"
            raise self.error(f"expected {mark!r}, found {found}")

    def done(self) -> bool:
        """Whether every token is taken."""
        return self.peek().kind == "end"

    def finish(self) -> None:
        """Fail unless every token is taken."""
        if not self.done():
            raise self.error(f"unexpected {self.peek().text!r}")

    def expression(self, least: int = 1) -> int:
        """An integer expression; every symbol in it must be known."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error("expression nested too deeply")
        left = self._term()
        while _PRIORITY.get(self.peek().text, 0) >= least and self.peek().kind == "mark":
            operator = self.next()
            right = self.expression(_PRIORITY[operator.text] + 1)
            left = self._apply(operator, left, right)
        self.depth -= 1
        return left

    def _apply(self, operator: Token, left: int, right: int) -> int:
        text = operator.text
        if text in ("/", "%"):
            if right == 0:
                raise self.error("division by zero", operator)
            quotient = abs(left) // abs(right)
            quotient = -quotient if (left < 0) != (right < 0) else quotient
            return quotient if text == "/" else left - quotient * right
        if text in ("<<", ">>") and not 0 <= right < 64:
            raise self.error(f"shift by {right}", operator)
        result: int = {
            "*": left.__mul__,
            "<<": left.__lshift__,
            ">>": left.__rshift__,
            "|": left.__or__,
            "&": left.__and__,
            "^": left.__xor__,
            "+": left.__add__,
            "-": left.__sub__,
        }[text](right)
        if not -(1 << 63) <= result < 1 << 64:
            raise self.error(f"{result:#x} does not fit in 64 bits", operator)
        return result

    def _term(self) -> int:
        token = self.next()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "name":
            return self._symbol(token, token.text)
        if token.text in ("-", "+", "~"):
            value = self.expression(4)
            return {"-": -value, "+": value, "~": ~value}[token.text]
        if token.text == "(":
            value = self.expression()
            self.expect(")")
            return value
        if token.text == ":":
            return self._low_12()
        self.index -= 1
        raise self.error(f"expected an expression, found {token.text or 'nothing'}")

    def _number(self, token: Token) -> int:
        text = token.text
        if text[-1] in "fb" and text[1:2] not in ("x", "X"):
            return self._symbol(token, text)
        if text[0] == "0" and text.isdigit() and len(text) > 1:
            if not set(text) <= set("01234567"):
                raise self.error(f"{text} is not an octal number", token)
            value = int(text, 8)
        else:
            value = int(text, 0) if len(text) < 100 else 1 << 64
        if value >> 64:
            raise self.error(f"{text[:20]} does not fit in 64 bits", token)
        return value

    def _symbol(self, token: Token, name: str) -> int:
        value = self.symbols(name)
        if value is None:
            raise self.error(f"{name} is not defined", token)
        self.symbolic = True
        return value

    def _low_12(self) -> int:
        """``:lo12:symbol``, after the first colon."""
        token = self.next()
        if token.text != "lo12":
            raise self.error(f"relocation {token.text} is not supported here", token)
        self.expect(":")
        return self.expression(4) & 0xFFF

    def _part(self) -> Part:
        """``:abs_g1:symbol``."""
        self.expect(":")
        shift = _PARTS[self.next().text]
        self.expect(":")
        return Part(self.expression(4) >> shift & 0xFFFF, shift)

    def operands(self) -> list[Parsed]:
        """All operands of the statement, to its end."""
        if self.done():
            return []
        found = [self._operand()]
        while self.accept(","):
            found.append(self._operand())
        self.finish()
        return found

    def _operand(self) -> Parsed:
        token = self.peek()
        if self.accept("="):
            self.symbolic = False
            return Parsed(Literal(self.expression(), self.symbolic), token.column)
        if self.accept("["):
            return Parsed(self._address(), token.column)
        if token.kind == "name":
            register = register_named(token.text)
            if register is not None:
                self.next()
                return Parsed(register, token.column)
            if token.text.lower() in _SHIFTS and not self._followed_by_operator():
                return Parsed(self._shift(), token.column)
            if not self._followed_by_operator():
                self.next()
                return Parsed(Name(token.text), token.column)
        self.accept("#")
        if self.peek().text == ":" and self.peek(1).text in _PARTS:
            return Parsed(self._part(), token.column)
        return Parsed(self.expression(), token.column)

    def _followed_by_operator(self) -> bool:
        return self.peek(1).text in _PRIORITY

    def _shift(self) -> Shift:
        kind = self.next().text.lower()
        if self.done() or self.peek().text in (",", "]"):
            return Shift(kind, None)
        self.accept("#")
        return Shift(kind, self.expression())

    def _address(self) -> Address:
        base = register_named(self.peek().text)
        offset, index, shift = None, None, None
        if base is None:
            offset = self.expression()
        else:
            self.next()
        if base is not None and self.accept(","):
            index = register_named(self.peek().text)
            if index is None:
                self.accept("#")
                offset = self.expression()
            else:
                self.next()
                if self.accept(","):
                    if self.peek().text.lower() not in _SHIFTS:
                        raise self.error("expected a shift or an extension")
                    shift = self._shift()
        self.expect("]")
        return Address(base, offset, index, shift, self.accept("!"))
