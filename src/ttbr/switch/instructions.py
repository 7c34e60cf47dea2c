"""The instructions that a program may use, and the operand forms that each accepts.

A form is a row of operand classes separated by spaces; `ttbr.switch.forms` says what a class takes.
`FORMS` is the whole vocabulary: a mnemonic that is not in it is refused. Capital letters are
registers: R has the instruction's width and may be the zero register, S likewise but may be the
stack pointer, X and W are fixed, V is of either width.
"""

from dataclasses import dataclass

from ttbr.switch.arithmetic import CONDITIONS

__all__ = ["ACCESSES", "BARRIERS", "FORMS", "HINTS", "Access"]


@dataclass(frozen=True, slots=True)
class Access:
    """A load or store: bytes of each register (0: the register's width), sign extension, pair."""

    store: bool
    size: int = 0
    signed: bool = False
    pair: bool = False


ACCESSES: dict[str, Access] = {
    **{f"ld{kind}r": Access(False) for kind in ("", "u", "a", "ap")},
    **{f"ld{kind}rb": Access(False, 1) for kind in ("", "u", "a", "ap")},
    **{f"ld{kind}rh": Access(False, 2) for kind in ("", "u", "a", "ap")},
    **{f"ld{kind}rsb": Access(False, 1, True) for kind in ("", "u")},
    **{f"ld{kind}rsh": Access(False, 2, True) for kind in ("", "u")},
    **{f"ld{kind}rsw": Access(False, 4, True) for kind in ("", "u")},
    **{f"st{kind}r": Access(True) for kind in ("", "u", "l")},
    **{f"st{kind}rb": Access(True, 1) for kind in ("", "u", "l")},
    **{f"st{kind}rh": Access(True, 2) for kind in ("", "u", "l")},
    "ldp": Access(False, pair=True),
    "ldnp": Access(False, pair=True),
    "ldpsw": Access(False, 4, True, True),
    "stp": Access(True, pair=True),
    "stnp": Access(True, pair=True),
}

BARRIERS: dict[str, tuple[int, str, str]] = {
    name + suffix: (domain | kind, name.upper() if name != "sy" else "SY", suffix.upper())
    for name, domain in (("osh", 0), ("nsh", 4), ("ish", 8))
    for suffix, kind in (("ld", 1), ("st", 2), ("", 3))
} | {"ld": (13, "SY", "LD"), "st": (14, "SY", "ST"), "sy": (15, "SY", "")}
"""Barrier options: CRm, domain, kind (C6.2 DSB)."""

HINTS: dict[str, int] = {
    "nop": 0,
    "yield": 1,
    "wfe": 2,
    "wfi": 3,
    "sev": 4,
    "sevl": 5,
    "dgh": 6,
    "xpaclri": 7,
    "pacia1716": 8,
    "pacib1716": 10,
    "autia1716": 12,
    "autib1716": 14,
    "esb": 16,
    "csdb": 20,
    "paciaz": 24,
    "paciasp": 25,
    "pacibz": 26,
    "pacibsp": 27,
    "autiaz": 28,
    "autiasp": 29,
    "autibz": 30,
    "autibsp": 31,
}
"""HINT space. Pointer authentication is taken as done by pairs that leave the address (C6.2)."""

_ADD = ("S S arith", "R R Rsh", "S S Vext")
_ADDS = ("R S arith", "R R Rsh", "R S Vext")
_CMP = ("S arith", "R Rsh", "S Vext")
_LOGIC = ("S R logical", "R R Rror")
_SHIFT = ("R R amount", "R R R")
_FIELD = ("R R field",)
_TWO, _THREE, _FOUR = ("R R",), ("R R R",), ("R R R R",)
_LONG, _LONG_ADD = ("X W W",), ("X W W X",)
_SELECT, _CHANGE = ("R R R cond",), ("R R condx",)
_COMPARE = ("R R nzcv cond", "R u5 nzcv cond")

FORMS: dict[str, tuple[str, ...]] = {
    "mov": ("R R", "S S", "R constant", "S logical"),
    "mvn": ("R Rror",),
    **dict.fromkeys(("movz", "movn", "movk"), ("R wide",)),
    **dict.fromkeys(("add", "sub"), _ADD),
    **dict.fromkeys(("adds", "subs"), _ADDS),
    **dict.fromkeys(("cmp", "cmn"), _CMP),
    **dict.fromkeys(("neg", "negs"), ("R Rsh",)),
    **dict.fromkeys(("adc", "adcs", "sbc", "sbcs"), _THREE),
    **dict.fromkeys(("ngc", "ngcs"), _TWO),
    **dict.fromkeys(("and", "orr", "eor"), _LOGIC),
    "ands": ("R R logical", "R R Rror"),
    "tst": ("R logical", "R Rror"),
    **dict.fromkeys(("orn", "eon", "bics"), ("R R Rror",)),
    "bic": ("R R Rror", "S R inverted"),
    **dict.fromkeys(("lsl", "lsr", "asr", "ror"), _SHIFT),
    "extr": ("R R R amount",),
    **dict.fromkeys(("ubfx", "sbfx", "bfxil", "bfi", "ubfiz", "sbfiz"), _FIELD),
    "bfc": ("R field",),
    **dict.fromkeys(("ubfm", "sbfm", "bfm"), ("R R amount amount",)),
    **dict.fromkeys(("sxtb", "sxth"), ("R W",)),
    **dict.fromkeys(("uxtb", "uxth"), ("W W",)),
    **dict.fromkeys(("sxtw", "uxtw"), ("X W",)),
    **dict.fromkeys(("clz", "cls", "rbit", "rev", "rev16"), _TWO),
    "rev32": ("X X",),
    **dict.fromkeys(("mul", "mneg", "udiv", "sdiv"), _THREE),
    **dict.fromkeys(("madd", "msub"), _FOUR),
    **dict.fromkeys(("umull", "smull", "umnegl", "smnegl"), _LONG),
    **dict.fromkeys(("umaddl", "smaddl", "umsubl", "smsubl"), _LONG_ADD),
    **dict.fromkeys(("umulh", "smulh"), ("X X X",)),
    **dict.fromkeys(("csel", "csinc", "csinv", "csneg"), _SELECT),
    **dict.fromkeys(("cset", "csetm"), ("R condx",)),
    **dict.fromkeys(("cinc", "cinv", "cneg"), _CHANGE),
    **dict.fromkeys(("ccmp", "ccmn"), _COMPARE),
    "adr": ("X near",),
    "adrp": ("X page",),
    "ldr": ("R memory", "R literal"),
    "ldrsw": ("X memory", "X literal"),
    **dict.fromkeys(("ldrb", "ldrh", "strb", "strh"), ("W memory",)),
    **dict.fromkeys(("ldrsb", "ldrsh", "str"), ("R memory",)),
    **dict.fromkeys(("ldur", "stur", "ldursb", "ldursh"), ("R unscaled",)),
    **dict.fromkeys(("ldurb", "ldurh", "sturb", "sturh"), ("W unscaled",)),
    "ldursw": ("X unscaled",),
    **dict.fromkeys(("ldar", "ldapr", "stlr"), ("R ordered",)),
    **dict.fromkeys(("ldarb", "ldarh", "ldaprb", "ldaprh", "stlrb", "stlrh"), ("W ordered",)),
    **dict.fromkeys(("ldp", "stp"), ("R R pair",)),
    **dict.fromkeys(("ldnp", "stnp"), ("R R pair_offset",)),
    "ldpsw": ("X X pair",),
    **dict.fromkeys(("b", "bl"), ("label26",)),
    **dict.fromkeys([f"b.{c.lower()}" for c in (*CONDITIONS, "HS", "LO")], ("label19",)),
    **dict.fromkeys(("cbz", "cbnz"), ("R label19",)),
    **dict.fromkeys(("tbz", "tbnz"), ("V bit label14",)),
    **dict.fromkeys(("br", "blr"), ("X",)),
    "ret": ("", "X"),
    **dict.fromkeys(("retaa", "retab", "eret", "eretaa", "eretab"), ("",)),
    "isb": ("", "isb_option"),
    "dsb": ("dsb_option",),
    "dmb": ("barrier",),
    "msr": ("register X", "pstate u4"),
    "mrs": ("X register",),
    "tlbi": ("tlbi", "tlbi X"),
    "dc": ("dc X",),
    "ic": ("ic", "ic X"),
    "at": ("at X",),
    "sys": ("sys", "sys X"),
    **dict.fromkeys(("hvc", "smc", "svc"), ("u16",)),
    "bti": ("", "bti_target"),
    "hint": ("u7",),
    "clrex": ("", "u4"),
    **dict.fromkeys((*HINTS, "sb", "ssbb", "pssbb"), ("",)),
}
"""The operand forms of each mnemonic, tried in order."""
