"""Built tables in numbers: how many, where, the registers that go with them, what they need."""

from dataclasses import dataclass

from ttbr.arch.geometry import size_text
from ttbr.build import Estimate, TableSet

__all__ = ["Built", "plain_built", "text_built"]


@dataclass(frozen=True, slots=True)
class Built:
    """What was counted and built.

    `estimates` are by root, with its name where there are several. `tables` is None when only an
    estimate was asked for. `registers` are the values under their Arm names, of a plan those of the
    boot. `needs` are the features that the registers ask for.
    """

    estimates: tuple[tuple[str, Estimate], ...]
    needs: tuple[str, ...] = ()
    tables: TableSet | None = None
    registers: dict[str, int] | None = None

    @property
    def total(self) -> int:
        """Pages of tables under all roots."""
        return sum(counted.total for _, counted in self.estimates)


def _plain_estimate(counted: Estimate) -> dict[str, object]:
    return {
        "tables": counted.total,
        "by_level": {str(level): n for level, n in sorted(counted.tables.items())},
        "bytes": counted.bytes,
    }


def plain_built(built: Built) -> dict[str, object]:
    """The numbers as plain values."""
    body: dict[str, object] = {}
    if len(built.estimates) == 1:
        body["estimate"] = _plain_estimate(built.estimates[0][1])
    else:
        body["estimate"] = {
            "tables": built.total,
            "bytes": sum(counted.bytes for _, counted in built.estimates),
            "roots": {name: _plain_estimate(counted) for name, counted in built.estimates},
        }
    body["needs"] = list(built.needs)
    made = built.tables
    if made is None:
        return body
    return body | {
        "root": hex(made.roots[0].address),
        "roots": {root.name: hex(root.address) for root in made.roots},
        "tables": made.page_count,
        "first": hex(made.first),
        "registers": {name: hex(value) for name, value in (built.registers or {}).items()},
        "values": {name: hex(value) for name, value in made.values.items()},
    }


def _estimate_line(name: str, counted: Estimate) -> str:
    levels = ", ".join(f"{n} at level {level}" for level, n in sorted(counted.tables.items()) if n)
    of = f"{name}: " if name else ""
    return f"{of}{_tables(counted.total)} ({size_text(counted.bytes)}): {levels}"


def _tables(number: int) -> str:
    return "1 table" if number == 1 else f"{number} tables"


def text_built(built: Built) -> str:
    """The numbers as text, values one a line."""
    lines = [_estimate_line(name, counted) for name, counted in built.estimates]
    if len(built.estimates) > 1:
        lines.append(f"{_tables(built.total)} in all")
    made = built.tables
    if made is not None:
        pages = "1 page" if made.page_count == 1 else f"{made.page_count} pages"
        size = size_text(made.page_count * made.arena.granule.size)
        roots = ", ".join(f"{r.name.replace('_', ' ')} {r.address:#x}" for r in made.roots)
        lines.append(f"{roots}; {pages} ({size}) of tables")
        lines += [f"  {name:10} = {value:#018x}" for name, value in made.values.items()]
    if built.needs:
        lines.append(f"needs {', '.join(built.needs)}")
    return "\n".join(lines)
