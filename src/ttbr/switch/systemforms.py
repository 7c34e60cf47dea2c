"""Operands of system instructions: registers, barrier options, TLBI and cache operations."""

from ttbr.switch.instructions import BARRIERS
from ttbr.switch.match import Match, Matcher
from ttbr.switch.syntax import Name
from ttbr.switch.sysregs import (
    PSTATE_FIELDS,
    SYSTEM_OPERATIONS,
    operation_encoding,
    register_name,
)
from ttbr.switch.tlbi import tlbi_by_encoding, tlbi_by_name

__all__ = ["SYSTEM_OPERANDS"]


def _system_register(m: Match) -> bool:
    name = m.name()
    if name is None:
        return False
    register = register_name(name)
    if register is None:
        return m.fail(f"unknown system register {name} (another one: S<op0>_<op1>_C<n>_C<m>_<op2>)")
    m.out.append(register)
    return True


def _pstate(m: Match) -> bool:
    name = m.name()
    if name not in PSTATE_FIELDS:
        return m.fail(f"{name} is not a PSTATE field")
    m.out.append(name)
    return True


def _barrier(m: Match, nxs: bool = False) -> bool:
    found = m.take()
    if found is None:
        return False
    value = found.value
    if isinstance(value, Name):
        name = value.text.lower()
        if nxs and name.endswith("nxs") and name[:-3] in ("sy", "ish", "nsh", "osh"):
            m.out.append(name)
            return True
        if name not in BARRIERS:
            return m.fail(f"{value.text} is not a barrier option")
    else:
        names = {crm: name for name, (crm, _, _) in BARRIERS.items()}
        if not isinstance(value, int) or value not in names:
            return m.fail("reserved barrier option")
        name = names[value]
    m.out.append(name)
    return True


def _isb_option(m: Match) -> bool:
    found = m.take()
    if found is None:
        return False
    if isinstance(found.value, Name) and found.value.text.lower() == "sy":
        return True
    return found.value == 15 or m.fail("expected sy or #15")


def _tlbi(m: Match) -> bool:
    name = m.name()
    op = None if name is None else tlbi_by_name(name)
    if op is None:
        return m.fail(f"unknown TLBI operation {name}")
    if op.operand != (len(m.parsed) == 2):
        return m.fail(f"{op.name} takes {'an' if op.operand else 'no'} address or ASID register")
    m.out.append(op.name)
    return True


def _operation(m: Match) -> bool:
    name = m.name()
    if name not in SYSTEM_OPERATIONS[m.mnemonic]:
        return m.fail(f"unknown {m.mnemonic.upper()} operation {name}")
    if m.mnemonic == "ic" and (name == "IVAU") != (len(m.parsed) == 2):
        return m.fail(f"{name} takes {'an' if name == 'IVAU' else 'no'} address register")
    m.out.append(name)
    return True


def _sys(m: Match) -> bool:
    """``sys #op1, Cn, Cm, #op2``: turned into the TLBI, DC, IC or AT that it is."""
    numbers = [m.number(0, 7), _c_register(m), _c_register(m), m.number(0, 7)]
    if None in numbers:
        return False
    op1, crn, crm, op2 = (n or 0 for n in numbers)
    tlbi = tlbi_by_encoding(op1, crn, crm, op2)
    found = ("tlbi", tlbi.name) if tlbi else operation_encoding((op1, crn, crm, op2))
    if found is None:
        return m.fail(f"SYS #{op1}, C{crn}, C{crm}, #{op2} is not modelled")
    m.mnemonic = found[0]
    m.out.append(found[1])
    return True


def _c_register(m: Match) -> int | None:
    name = m.name()
    if name is None or name[0] != "C" or not name[1:].isdigit() or int(name[1:]) > 15:
        m.why = m.why or "expected c0 to c15"
        return None
    return int(name[1:])


def _bti_target(m: Match) -> bool:
    name = m.name()
    if name not in ("C", "J", "JC"):
        return m.fail("expected c, j or jc")
    m.out.append(name)
    return True


SYSTEM_OPERANDS: dict[str, Matcher] = {
    "register": _system_register,
    "pstate": _pstate,
    "barrier": _barrier,
    "dsb_option": lambda m: _barrier(m, True),
    "isb_option": _isb_option,
    "tlbi": _tlbi,
    "dc": _operation,
    "ic": _operation,
    "at": _operation,
    "sys": _sys,
    "bti_target": _bti_target,
}
"""Operand classes of `ttbr.switch.instructions` that only system instructions have."""
