"""Say what an image holds: memory, registers, and the regimes that the registers program."""

from ttbr.arch.geometry import size_text
from ttbr.arch.regime import EL1, EL2, EL3, EL20, Regime, current_regime, regime_of
from ttbr.cli.source import add_source, image_of, off_text, registers_from
from ttbr.errors import InvalidError, MemoryFault
from ttbr.memory.image import Image
from ttbr.memory.registerfile import RegisterFile
from ttbr.report.words import half_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ttbr.arch.regime import WalkParams

_SHOWN_SEGMENTS = 12


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr info``."""
    add_source(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _names(registers: RegisterFile) -> list[str]:
    values = registers.values
    el2 = EL20 if values.get("HCR_EL2", 0) >> 34 & 1 else EL2
    return [n for n, el in ((EL1, 1), (el2, 2), (EL3, 3)) if f"TCR_EL{el}" in values]


def _root_present(image: Image, p: "WalkParams") -> str:
    if p.epd or p.start_error:
        return ""
    try:
        image.memory.read(p.root, p.root_size)
        return ""
    except MemoryFault:
        return ", root not in the image"


def _regime_lines(image: Image, registers: RegisterFile, regime: Regime) -> list[str]:
    on = regime.mmu_on
    lines = [f"{regime.name}: stage 1 on" if on else off_text(regime, registers)]
    for half in (regime.lower, regime.upper):
        # Controls that nobody has set yet are no error.
        if half is None or not (on or regime.halves):
            continue
        if isinstance(half, InvalidError):
            lines.append(f"  {half}")
        else:
            at = "" if regime.stage2 is not None else _root_present(image, half)
            lines.append(f"  {half_text(half)}{at}")
    if isinstance(regime.stage2, InvalidError):
        lines.append(f"  stage 2: {regime.stage2}")
    elif regime.stage2 is not None:
        lines.append(f"  stage 2: {half_text(regime.stage2)}{_root_present(image, regime.stage2)}")
    return lines


def _regimes(image: Image, registers: RegisterFile) -> dict[str, list[str]]:
    found = {}
    for name in _names(registers):
        try:
            found[name] = _regime_lines(image, registers, regime_of(registers.values, name))
        except InvalidError as error:
            found[name] = [f"{name}: {error}"]
    return found


def run(options: "Namespace") -> int:
    """Run ``ttbr info``; the exit status."""
    image = image_of(options)
    try:
        registers = registers_from(options, image)
    except InvalidError:
        if options.regs is not None:
            raise
        registers = RegisterFile({})
    segments = image.segments
    total = sum(s.size for s in segments)
    if options.json:
        import json

        print(
            json.dumps(
                {
                    "image": image.path,
                    "kind": image.kind,
                    "bytes": total,
                    "segments": [{"address": hex(s.address), "size": s.size} for s in segments],
                    "el": registers.el,
                    "registers": {k: hex(v) for k, v in registers.values.items()},
                    "regimes": _regimes(image, registers),
                },
                indent=2,
            )
        )
        return 0
    size = f", {size_text(total)} in {len(segments)} segments" if segments else ""
    print(f"{image.path}: {image.kind}{size}")
    for s in segments[:_SHOWN_SEGMENTS]:
        print(f"  {s.address:#x}-{s.end:#x}  {size_text(s.size)}")
    if len(segments) > _SHOWN_SEGMENTS:
        print(f"  ... {len(segments) - _SHOWN_SEGMENTS} more")
    if not registers.values:
        print("no registers in the image (give --regs FILE)")
        return 0
    if registers.el is not None:
        now = current_regime(registers.values, registers.el)
        print(f"{len(registers.values)} registers, PSTATE.EL={registers.el}, current regime {now}")
    for lines in _regimes(image, registers).values():
        print("\n".join(lines))
    return 0
