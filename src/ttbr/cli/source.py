"""Arguments that several commands share: an image, its registers, and the regime to use."""

from ttbr.arch.regime import EL1, EL2, EL3, EL20, Regime, current_regime, regime_of, stage2_of
from ttbr.arch.registers import REGISTERS
from ttbr.cli.progress import say
from ttbr.errors import InvalidError, MemoryFault, UnreadableError
from ttbr.memory.image import Image, open_image
from ttbr.memory.registerfile import RegisterFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from ttbr.arch.regime import WalkParams

__all__ = [
    "add_source",
    "check_root",
    "image_of",
    "number",
    "off_text",
    "regime_from",
    "registers_from",
    "stage2_from",
    "take_registers",
    "take_target",
]

LIVE = "gdb:"
REGIMES = {"el1": EL1, "el2": EL2, "el2vhe": EL20, "el3": EL3}


def number(text: str, what: str, bits: int = 64) -> int:
    """An unsigned number as people type it: any base prefix, underscores; `InvalidError` else."""
    try:
        value = int(text, 0)
    except ValueError:
        raise InvalidError(f"{what} {text!r} is not a number (hexadecimal needs 0x)") from None
    if not 0 <= value < 1 << bits:
        raise InvalidError(f"{what} {text!r} does not fit in {bits} bits")
    return value


def add_source(parser: "ArgumentParser") -> None:
    """The arguments that name an image, its registers and the regime."""
    parser.add_argument("image", metavar="IMAGE", help="ELF core (also .gz) or raw memory image")
    parser.add_argument("--base", metavar="ADDR", help="physical address of a raw image")
    parser.add_argument(
        "--regs", metavar="FILE", help="system registers (JSON or TOML, see docs/files.md)"
    )
    parser.add_argument(
        "--regime", choices=[*REGIMES, "stage2"], help="the regime to use (default: the current)"
    )
    parser.add_argument("--el", type=int, choices=range(4), help="the exception level to ask for")
    parser.set_defaults(registers={})
    parser.epilog = (
        "Any system register of translation overrides the file's: "
        "--ttbr0-el1 VALUE, --tcr-el1 VALUE, --ttbr0-el2 VALUE, --hcr-el2 VALUE and so on. "
        "--gdb HOST:PORT in the place of IMAGE reads a running QEMU (or another GDB stub that has "
        "system registers and physical memory)."
    )


def take_target(words: "Sequence[str]") -> list[str]:
    """*words* with ``--gdb HOST:PORT`` put where IMAGE stands, as ``gdb:HOST:PORT``."""
    left: list[str] = []
    place: str | None = None
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option != "--gdb":
            left.append(word)
        elif place is not None:
            raise InvalidError("--gdb is given twice")
        else:
            place = value if equals else next(rest, "")
    return left if place is None else [f"{LIVE}{place}", *left]


def take_registers(words: "Sequence[str]") -> tuple[list[str], dict[str, str]]:
    """Split *words* into those without, and the values of, ``--<register> VALUE``.

    Done by hand: thirty options cost argparse as much as the walk itself.
    """
    left: list[str] = []
    given: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        name = option[2:].replace("-", "_").upper()
        register = REGISTERS.get(name)
        known = register is not None and register.name == name and name != "PAR_EL1"  # a result
        if not option.startswith("--") or not known:
            left.append(word)
            continue
        given[name] = value if equals else next(rest, "")
    return left, given


def image_of(options: "Namespace") -> Image:
    """The image that the arguments name, or the live target in its place."""
    if options.image.startswith(LIVE):
        return _live(options)
    base = None if options.base is None else number(options.base, "--base")
    say(f"reading {options.image}")
    image = open_image(options.image, base)
    say("")
    return image


def _live(options: "Namespace") -> Image:
    """The memory and registers of a running target, which goes on when the process ends."""
    import atexit

    from ttbr.emulate.live import LiveTarget

    place = options.image.removeprefix(LIVE)
    if options.base is not None:
        raise InvalidError("--base is of a raw image, not of --gdb")
    target = LiveTarget.connect(place)
    atexit.register(target.close)
    return Image(place, "live target", target.memory, target.registers)


def registers_from(options: "Namespace", image: Image) -> RegisterFile:
    """Registers of the image, then of --regs, then of the single options."""
    values = dict(image.registers.values)
    pstate = image.registers.pstate
    if options.regs is not None:
        from ttbr.memory.registerfile import read_registers

        found = read_registers(options.regs)
        values |= found.values
        pstate = pstate if found.pstate is None else found.pstate
    for name, text in options.registers.items():
        values[name] = number(text, f"--{name.lower().replace('_', '-')}")
    if options.el is not None:
        pstate = options.el << 2
    if not values:
        raise InvalidError(
            f"{image.path}: no registers; give --regs FILE, or --ttbr0-el1 and --tcr-el1 and so on"
        )
    return RegisterFile(values, pstate)


def _name(options: "Namespace", registers: RegisterFile) -> str:
    if options.regime is not None:
        return REGIMES[options.regime]
    if registers.el is not None:
        return current_regime(registers.values, registers.el)
    hcr = registers.values.get("HCR_EL2", 0)
    el2 = EL20 if hcr >> 34 & 1 else EL2
    given = [
        name
        for name, level in ((EL1, 1), (el2, 2), (EL3, 3))
        if f"TCR_EL{level}" in registers.values
    ]
    if len(given) != 1:
        which = "several regimes" if given else "no TCR_ELx"
        raise InvalidError(f"registers of {which}: say which with --regime")
    return given[0]


def regime_from(options: "Namespace", registers: RegisterFile) -> Regime:
    """The regime that the arguments ask for, from *registers*."""
    return regime_of(registers.values, _name(options, registers))


def off_text(regime: Regime, registers: RegisterFile) -> str:
    """That stage 1 of *regime* is off, with the bit that turns it off."""
    register = {EL1: "SCTLR_EL1", EL3: "SCTLR_EL3"}.get(regime.name, "SCTLR_EL2")
    why = f"{register}.M=0"
    if registers.values.get(register, 1) & 1:
        tge = REGISTERS["HCR_EL2"]["TGE"].get(registers.values.get("HCR_EL2", 0))
        why = f"HCR_EL2.{'TGE' if tge else 'DC'}=1"
    return f"{regime.name}: stage 1 off ({why})"


def check_root(image: Image, regime: Regime | None, p: "WalkParams") -> None:
    """`InvalidError` where the root of *p* cannot be in memory, `UnreadableError` where it is not.

    To a CPU these are an Address size fault and an External abort; to who reads an image they say
    that the registers do not belong to it. Roots at an IPA, and a start level with which every
    walk faults, are left to the walk.
    """
    if p.start_error:
        return
    if p.root >> p.output_bits:
        raise InvalidError(
            f"{p.name}: the root {p.root:#x} is beyond the {p.output_bits}-bit output size"
        )
    if regime is not None and regime.stage2 is not None:
        return
    try:
        image.memory.read(p.root, p.root_size)
    except MemoryFault:
        ends = [f"{s.address:#x}-{s.end:#x}" for s in image.segments]
        where = ends[0] if len(ends) == 1 else f"{len(ends)} segments"
        raise UnreadableError(
            f"{image.path}: the root {p.root:#x} of {p.name} is not in the image ({where})"
        ) from None


def stage2_from(registers: RegisterFile) -> "WalkParams":
    """Stage 2 by itself."""
    return stage2_of(registers.values)
