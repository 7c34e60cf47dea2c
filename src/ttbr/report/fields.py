"""Registers and descriptors, field by field."""

from ttbr.arch.attributes import memory_text
from ttbr.arch.bits import Field, Register
from ttbr.arch.geometry import Granule, size_text
from ttbr.arch.regime import size_errors, stage2_start

__all__ = [
    "descriptor_text",
    "plain_descriptor",
    "plain_register",
    "register_text",
    "register_warnings",
]

Decoded = tuple[str, int | None, list[tuple[Field, int]]]


def _meaning(register: str, field: Field, value: int, word: int = 0) -> str:
    """What *value* of a field says, as part of *word*."""
    if field.name == "SL0":
        start = stage2_start(word)
        return f"{field.meaning}: {'reserved' if start is None else start}"
    if register.startswith("MAIR") or field.name == "ATTR":
        return memory_text(value)
    if field.name in ("T0SZ", "T1SZ"):
        return f"{64 - value}-bit range"
    said = field.describe(value)
    return f"{field.meaning}: {said}" if said and field.meaning else said or field.meaning


def _line(field: Field, value: int, meaning: str) -> str:
    shown = f"{value:#x}" if field.width > 4 else f"{value:0{field.width}b}"
    feature = f"  ({field.feature})" if field.feature and value else ""
    return f"  {field.position:>5}  {field.name:<9} {shown:<18} {meaning}{feature}".rstrip()


def register_warnings(register: Register, value: int) -> list[str]:
    """Reserved encodings, input sizes that are never legal, and RES0 or RES1 bits that are not as
    they must be."""
    warnings = [
        f"{register.name}.{field.name}={v:#x} is reserved"
        for field, v in register.decode(value)
        if field.reserved and field.values is not None and v not in field.values
    ]
    warnings += size_errors(register, value)
    res0, res1 = register.unnamed(value)
    if res0:
        warnings.append(f"bits {res0:#x} are RES0 or not known here, and set")
    if res1:
        warnings.append(f"bits {res1:#x} are RES1 and clear")
    return warnings


def register_text(register: Register, value: int) -> str:
    """*value* field by field, one a line, zero single bits left out at the end."""
    lines = [f"{register.name} = {value:#018x}  {register.title}"]
    quiet = []
    for field, v in register.decode(value):
        if v == 0 and field.width == 1:
            quiet.append(field.name)
            continue
        lines.append(_line(field, v, _meaning(register.name, field, v, value)))
    if quiet:
        lines.append(f"  zero:  {' '.join(quiet)}")
    lines += [f"  !! {warning}" for warning in register_warnings(register, value)]
    return "\n".join(lines)


def plain_register(register: Register, value: int) -> dict[str, object]:
    """*value* as plain values for JSON."""
    return {
        "register": register.name,
        "value": hex(value),
        "fields": {
            field.name: {
                "bits": field.position,
                "value": v,
                "meaning": _meaning(register.name, field, v, value),
            }
            for field, v in register.decode(value)
        },
        "warnings": register_warnings(register, value),
    }


def descriptor_text(value: int, decoded: Decoded, level: int, granule: Granule) -> str:
    """A descriptor: what it is at this level, the address, and its fields."""
    kind, address, fields = decoded
    what = f"{value:#018x}: level {level} {kind}, {granule.name} granule"
    if address is not None:
        covers = size_text(granule.entry_size(level))
        target = "next table" if kind == "table" else "output address"
        what += f", {target} {address:#x} (entry covers {covers})"
    elif kind == "reserved":
        what += ": walking it is a Translation fault"
    return "\n".join([what, *(_line(f, v, _meaning("", f, v)) for f, v in fields)])


def plain_descriptor(value: int, decoded: Decoded) -> dict[str, object]:
    """A decoded descriptor as plain values for JSON."""
    kind, address, fields = decoded
    return {
        "descriptor": hex(value),
        "type": kind,
        "address": None if address is None else hex(address),
        "fields": {f.name: {"bits": f.position, "value": v} for f, v in fields},
    }
