"""Register files: system registers saved as JSON or TOML.

JSON: either ``{"TTBR0_EL2": "0x..", ...}`` or a capture's ``state.json`` (``sysregs``, ``el``,
``core.cpsr``). TOML: the same names at the top level or in a table ``sysregs``.
"""

import os

from ttbr.arch.registers import arm_name
from ttbr.errors import UnreadableError
from ttbr.record import record

__all__ = ["RegisterFile", "parse_registers", "read_registers"]

_LIMIT = 16 << 20


@record
class RegisterFile:
    """System registers by Arm name; PSTATE and the general registers where the source has them.

    `general` holds x0 to x30, sp and pc.
    """

    values: dict[str, int]
    pstate: int | None = None
    general: dict[str, int] = {}  # noqa: RUF012 - a record is frozen, and nothing writes to it

    @property
    def el(self) -> int | None:
        """The exception level, PSTATE.EL [3:2]."""
        return None if self.pstate is None else self.pstate >> 2 & 3

    @property
    def pan(self) -> bool:
        """PSTATE.PAN [22]."""
        return bool(self.pstate is not None and self.pstate >> 22 & 1)


def _integer(value: object, name: str, where: str) -> int:
    """A register's value from JSON or TOML: an integer or a string in any base prefix."""
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and len(value) <= 80:
        try:
            number = int(value, 0)
        except ValueError:
            number = None
    if number is None:
        shown = repr(value)
        raise UnreadableError(f"{where}: {name}={shown[:40]} is not a number")
    if not 0 <= number < 1 << 64:
        raise UnreadableError(f"{where}: {name}={hex(number)[:40]} does not fit in 64 bits")
    return number


def _from_tree(tree: object, where: str) -> RegisterFile:
    if not isinstance(tree, dict):
        raise UnreadableError(f"{where}: register file must be a table of names and values")
    table = tree.get("sysregs", tree)
    if not isinstance(table, dict):
        raise UnreadableError(f"{where}: sysregs must be a table of names and values")
    values: dict[str, int] = {}
    for name, value in table.items():
        shown = name[:40] if name.isprintable() else repr(name)[:40]
        if table is tree and isinstance(value, dict | list):
            raise UnreadableError(f"{where}: {shown} is not a register value")
        register, number = arm_name(name), _integer(value, shown, where)
        if values.setdefault(register, number) != number:
            raise UnreadableError(f"{where}: {register} has two values")
    core = tree.get("core")
    pstate = None
    general: dict[str, int] = {}
    if isinstance(core, dict):
        general = {name: _integer(value, f"core.{name}", where) for name, value in core.items()}
        pstate = general.pop("cpsr", None)
    if pstate is None and table is not tree and "el" in tree:
        level = _integer(tree["el"], "el", where)
        if level > 3:
            raise UnreadableError(f"{where}: el={level}: must be 0 to 3")
        pstate = level << 2
    return RegisterFile(values, pstate, general)


def parse_registers(text: str, where: str) -> RegisterFile:
    """Registers from JSON or TOML *text*; *where* is for messages. Raises `UnreadableError`."""
    try:
        if text.lstrip()[:1] == "{":
            import json

            return _from_tree(json.loads(text), where)
        import tomllib

        return _from_tree(tomllib.loads(text), where)
    except UnreadableError:
        raise
    except (ValueError, RecursionError) as error:
        line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnreadableError(f"{where}: neither JSON nor TOML registers: {line}") from None


def read_registers(path: str | os.PathLike[str]) -> RegisterFile:
    """Registers from the JSON or TOML file at *path*; `UnreadableError` names the file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LIMIT + 1)  # not by its size: /dev/zero has none
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadableError(f"{path}: not a text file") from None
    if len(text) > _LIMIT:
        raise UnreadableError(f"{path}: too large for a register file")
    if not text.strip():
        raise UnreadableError(f"{path}: the file is empty")
    return parse_registers(text, str(path))
