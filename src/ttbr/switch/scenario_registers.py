"""``[registers]`` of a scenario: the register file at the start."""

from collections.abc import Callable

from ttbr.arch.regime import EL2, EL20
from ttbr.arch.registers import REGISTERS
from ttbr.errors import UnreadableError
from ttbr.switch.document import Section, within
from ttbr.switch.scenario_tables import REGIMES, Forest
from ttbr.switch.sysregs import register_name

__all__ = ["read_register_section"]


def read_register_section(
    section: Section, forest: Forest, path: Callable[[str], str]
) -> dict[str, int]:
    """The register file at the start."""
    found: dict[str, int] = {}
    for name in section.names("capture"):
        found |= _captured_registers(path(name))
    if "from" in section.fields:
        found |= forest.registers(section.names("from"), section)
    for key, value in section.fields.items():
        if key not in ("from", "capture", "mmu"):
            name = _register(section, key, forest)
            found[name] = _value(section, key, value, forest)
            if name == "PAN" and found[name] > 1:
                raise section.error(key, f"{found[name]:#x}: PSTATE.PAN is 0 or 1")
    control = f"SCTLR_EL{REGIMES[forest.regime]}"
    if "mmu" in section.fields:
        on = section.flag("mmu", True)
        found[control] = found.get(control, 0) & ~1 | on
    for el in sorted(REGIMES[regime] for regime in forest.regimes):
        if f"SCTLR_EL{el}" not in found:
            raise section.error(f"SCTLR_EL{el}", "is missing, and no table gives it")
    return found


def _register(section: Section, key: str, forest: Forest) -> str:
    """The register's one name; those that no regime of the scenario has are refused."""
    if key in ("sp", "NZCV") or (key[:1] == "x" and key[1:].isdigit() and int(key[1:]) < 31):
        return key
    name = register_name(key)
    if name is None:
        raise section.error(key, "there is no such register")
    missing = name.endswith(("_EL3", "_EL12", "_EL02"))
    missing |= name == "TTBR1_EL2" and EL20 not in forest.regimes
    missing |= name in ("TTBR0_EL2", "TCR_EL2") and not {EL2, EL20} & forest.regimes
    if missing:
        raise section.error(key, f"the regime {forest.regime} does not have it")
    return name


def _value(section: Section, key: str, value: object, forest: Forest) -> int:
    if not isinstance(value, dict):
        return section.number_from(key, value)
    part = section.section(key)
    name = part.text("register", key)
    layout = "TCR_EL2_E2H" if name == "TCR_EL2" and EL20 in forest.regimes else name
    if layout not in REGISTERS:
        raise section.error(key, "has no fields here: give its value")
    word = 0
    for field, given in part.fields.items():
        if field == "from":
            word = forest.registers(part.names("from"), part).get(name, 0)
        elif field != "register":
            with within(part.where):
                word = REGISTERS[layout][field].put(word, part.number_from(field, given))
    return word


def _captured_registers(path: str) -> dict[str, int]:
    """All registers of a capture's ``state.json``, general ones included."""
    import json

    from ttbr.memory import read_registers

    found = dict(read_registers(path).values)
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
    except ValueError:
        raise UnreadableError(f"{path}: must be JSON, as saved beside a capture") from None
    core = state.get("core", {}) if isinstance(state, dict) else {}
    try:
        core = {name: int(value, 0) for name, value in core.items()}
    except (TypeError, ValueError, AttributeError):
        raise UnreadableError(f"{path}: core: registers must be numbers in strings") from None
    pstate = core.pop("cpsr", None)
    core.pop("pc", None)
    if pstate is not None:
        found |= {"NZCV": pstate >> 28 & 15, "DAIF": pstate & 0x3C0, "SPSEL": pstate & 1}
        found["PAN"] = pstate >> 22 & 1
    return found | core
