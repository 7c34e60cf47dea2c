"""Reading: one walk, the start of the command line, a whole dump."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from goal import Goal, best, process_time

from ttbr.arch.regime import EL1, regime_of
from ttbr.memory import open_image
from ttbr.walk import READ, translate

ROOT = Path(__file__).parent.parent
TTBR = str(Path(sys.executable).with_name("ttbr"))


def captures() -> Path:
    beside = ROOT.parent / "shared" / "captures"
    return beside if beside.is_dir() else ROOT / "examples" / "captures"


def scalar_walk() -> Iterator[Goal]:
    image = open_image(
        ROOT / "examples/captures/deb612-4k52lpa2-max-nvhe/42_kernel_irq_from_user/tables.elf.gz"
    )
    regime = regime_of(image.registers.values, EL1)
    va, count = 0xFFFF800080010000, 20000
    translate(image.memory, regime, va, READ)

    def work() -> None:
        for _ in range(count):
            translate(image.memory, regime, va, READ)

    yield Goal(
        "one walk (5 levels looked up, permission checked)", best(work) / count * 1e6, 30, "us"
    )


def start_up() -> Iterator[Goal]:
    with tempfile.TemporaryDirectory() as directory:
        raw = Path(directory) / "ram.raw"
        with raw.open("wb") as file:
            file.truncate(512 << 20)
        registers = ["--ttbr0-el2", "0x40000000", "--tcr-el2", "0x80843518"]
        walk = [TTBR, "walk", str(raw), "--base", "0x40000000", *registers, "0x1000"]
        bare, help_, one = process_time([[sys.executable, "-c", "pass"], [TTBR, "--help"], walk])
    yield Goal("ttbr --help over `python -c pass`", help_ / bare, 3, "x")
    yield Goal("ttbr walk of a 512 MB image over `python -c pass`", one / bare, 3, "x")


def dump() -> Iterator[Goal]:
    largest = max(captures().glob("*/*/tables.elf.gz"), key=lambda path: path.stat().st_size)
    (used,) = process_time([[TTBR, "dump", str(largest)]], 3)
    yield Goal(f"ttbr dump of the largest capture ({largest.parent.parent.name})", used, 1, "s")


def goals() -> Iterator[Goal]:
    yield from scalar_walk()
    yield from start_up()
    yield from dump()
