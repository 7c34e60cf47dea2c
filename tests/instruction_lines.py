"""Random instruction text for each operand form, and the state to run it in."""

from random import Random

from ttbr.switch.instructions import ACCESSES, FORMS

SCRATCH = 0x4000_0000
CONDITIONS = [
    "eq",
    "ne",
    "cs",
    "cc",
    "mi",
    "pl",
    "vs",
    "vc",
    "hi",
    "ls",
    "ge",
    "lt",
    "gt",
    "le",
    "al",
    "hs",
    "lo",
]


def _register(r: Random, width: int, sp: bool = False) -> str:
    number = r.choice([0, 1, 2, 5, 9, 17, 28, 30, 31, 31])
    letter = "x" if width == 64 else "w"
    if number < 31:
        return f"{letter}{number}"
    special = "sp" if sp else "zr"
    return (letter if width == 32 or not sp else "") + special


def _mask(r: Random, width: int) -> int:
    size = r.choice([s for s in (2, 4, 8, 16, 32, 64) if s <= width])
    length, rotate = r.randrange(1, size), r.randrange(size)
    element = (1 << length) - 1
    element = (element >> rotate | element << (size - rotate)) & ((1 << size) - 1)
    return sum(element << i for i in range(0, width, size))


def _extended(r: Random, width: int) -> str:
    kind = r.choice(["", "uxtb", "uxth", "uxtw", "sxtb", "sxth", "sxtw", "uxtx", "sxtx", "lsl"])
    source = 64 if width == 64 and kind in ("", "uxtx", "sxtx", "lsl") else 32
    register = _register(r, source)
    amount = r.randrange(5)
    if kind == "lsl":
        return f"{register}, lsl #{amount}"
    return f"{register}, {kind} #{amount}" if kind and amount else f"{register}, {kind}".strip(", ")


def _place(r: Random, size: int, kind: str) -> str:
    """An address operand; x3 points into scratch memory and x4 is a small index."""
    if kind == "ordered":
        return "[x3]"
    if kind.startswith("pair"):
        offset = size * r.randrange(-64, 64)
    elif kind == "unscaled":
        return f"[x3, #{r.randrange(-256, 256)}]"
    else:
        offset = r.choice([size * r.randrange(200), r.randrange(-256, 256)])
    small = offset if kind != "memory" else r.randrange(-256, 256)
    forms = [f"[x3, #{offset}]", "[x3]"]
    if kind != "pair_offset":
        forms += [f"[x3, #{small}]!", f"[x3], #{small}"]
    if kind == "memory":
        scale = f" #{size.bit_length() - 1}"
        forms += ["[x3, x4]", "[x3, w4, uxtw]", f"[x3, w4, sxtw{scale}]", f"[x3, x4, lsl{scale}]"]
    return r.choice(forms)


def line(r: Random, mnemonic: str, form: str) -> str:
    """One random statement of this form."""
    width = r.choice([64, 32])
    names = form.split()
    if names and names[0] in ("X",):
        width = 64
    if names and names[0] == "W":
        width = 32
    size = ACCESSES[mnemonic].size or width // 8 if mnemonic in ACCESSES else 8
    shift = r.randrange(width)

    def operand(name: str) -> str:
        made = {
            "R": lambda: _register(r, width),
            "S": lambda: _register(r, width, True),
            "X": lambda: _register(r, 64),
            "W": lambda: _register(r, 32),
            "V": lambda: _register(r, width),
            "Rsh": lambda: (
                _register(r, width)
                + r.choice(["", f", {r.choice(['lsl', 'lsr', 'asr'])} #{shift}"])
            ),
            "Rror": lambda: (
                _register(r, width)
                + r.choice(["", f", {r.choice(['lsl', 'lsr', 'asr', 'ror'])} #{shift}"])
            ),
            "Vext": lambda: _extended(r, width),
            "arith": lambda: r.choice(
                [
                    f"#{r.randrange(4096)}",
                    f"#{r.randrange(4096)}, lsl #12",
                    "#0x7ff000",
                    f"#{-r.randrange(1, 4096)}",
                ]
            ),
            "inverted": lambda: f"#{_mask(r, width):#x}",
            "logical": lambda: f"#{_mask(r, width):#x}",
            "constant": lambda: r.choice(
                [
                    f"#{_mask(r, width):#x}",
                    f"#{r.randrange(65536) << r.randrange(0, width, 16):#x}",
                    f"#{-r.randrange(1, 65536)}",
                ]
            ),
            "wide": lambda: f"#{r.randrange(65536)}, lsl #{r.randrange(0, width, 16)}",
            "amount": lambda: f"#{r.randrange(width)}",
            "field": lambda: f"#{shift}, #{r.randrange(1, width - shift + 1)}",
            "bit": lambda: f"#{r.randrange(width)}",
            "cond": lambda: r.choice(CONDITIONS),
            "condx": lambda: r.choice([c for c in CONDITIONS if c != "al"]),
            "nzcv": lambda: f"#{r.randrange(16)}",
            "u5": lambda: f"#{r.randrange(32)}",
            "near": lambda: f". + {r.randrange(-1000, 1000)}",
            "page": lambda: f". + {r.randrange(-1000, 1000) * 4096}",
        }
        return made[name]() if name in made else _place(r, size, name)

    return f"{mnemonic} " + ", ".join(operand(name) for name in names)


def computing() -> list[tuple[str, str]]:
    """Every (mnemonic, form) that only computes or accesses memory."""
    outside = {"label14", "label19", "label26", "literal", "register", "pstate", "barrier", "tlbi"}
    outside |= {"dsb_option", "isb_option", "dc", "ic", "at", "sys", "u16", "u7", "bti_target"}
    return [
        (mnemonic, form)
        for mnemonic, forms in FORMS.items()
        for form in forms
        if form
        and not outside & set(form.split())
        and mnemonic not in ("br", "blr", "ret", "clrex")
    ]
