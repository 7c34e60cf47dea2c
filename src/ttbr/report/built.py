"""Built tables in numbers: how many, where, and the registers that go with them."""

from ttbr.arch.geometry import size_text
from ttbr.build import Tables
from ttbr.build.plan import Estimate

__all__ = ["plain_built", "text_built"]


def plain_built(counted: Estimate | None, tables: Tables | None) -> dict[str, object]:
    """The numbers as plain values."""
    body: dict[str, object] = {}
    if counted is not None:
        body["estimate"] = {
            "tables": counted.total,
            "by_level": {str(level): n for level, n in sorted(counted.tables.items())},
            "bytes": counted.bytes,
        }
    if tables is not None:
        pages = tables.pages()
        body |= {
            "root": hex(tables.root),
            "tables": len(pages),
            "first": hex(min(pages)),
            "registers": {name: hex(value) for name, value in tables.registers.items()},
        }
    return body


def text_built(counted: Estimate | None, tables: Tables | None) -> str:
    """The numbers as text, registers one a line."""
    lines = []
    if counted is not None:
        levels = ", ".join(
            f"{n} at level {level}" for level, n in sorted(counted.tables.items()) if n
        )
        lines.append(f"{counted.total} tables ({size_text(counted.bytes)}): {levels}")
    if tables is not None:
        pages = tables.pages()
        size = sum(map(len, pages.values()))
        lines.append(f"root {tables.root:#x}, {len(pages)} pages ({size_text(size)}) of tables")
        lines += [f"  {name:10} = {value:#018x}" for name, value in tables.registers.items()]
    return "\n".join(lines)
