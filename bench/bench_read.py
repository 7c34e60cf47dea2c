"""Reading: one walk, the start of the command line, a whole dump."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from goal import Goal, best, process_time

from ttbr.arch.geometry import PA, VA
from ttbr.arch.regime import EL1, EL2, regime_of
from ttbr.build import HYP_DATA, build, table_params
from ttbr.memory import open_image
from ttbr.regions import Region
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


def sparse_image(path: Path) -> list[str]:
    """Write 512 MB of RAM with one page mapped in four levels; the words that walk to it."""
    base, va = 0x4000_0000, 0x12_3456_7000
    page = [Region(VA(va), PA(base), 0x1000, HYP_DATA)]
    tables = build(page, table_params(EL2, "4K", 48), base=base + (256 << 20))
    with path.open("wb") as file:
        file.truncate(512 << 20)
        for address, data in tables.pages().items():
            file.seek(address - base)
            file.write(data)
    registers = [
        f"--{name.lower().replace('_', '-')}={v:#x}" for name, v in tables.registers.items()
    ]
    return [TTBR, "walk", str(path), "--base", hex(base), *registers, hex(va)]


def start_up() -> Iterator[Goal]:
    with tempfile.TemporaryDirectory() as directory:
        walk = sparse_image(Path(directory) / "ram.raw")
        shown = subprocess.run(walk, capture_output=True, text=True, check=True).stdout
        assert shown.count("  L") == 4, shown
        bare, help_, one = process_time([[sys.executable, "-c", "pass"], [TTBR, "--help"], walk])
    yield Goal("ttbr --help over `python -c pass`", help_ / bare, 3, "x")
    yield Goal("ttbr walk of a 512 MB image, 4 levels, over `python -c pass`", one / bare, 3, "x")


def dump() -> Iterator[Goal]:
    largest = max(captures().glob("*/*/tables.elf.gz"), key=lambda path: path.stat().st_size)
    (used,) = process_time([[TTBR, "dump", str(largest)]], 3)
    yield Goal(f"ttbr dump of the largest capture ({largest.parent.parent.name})", used, 1, "s")


def goals() -> Iterator[Goal]:
    yield from scalar_walk()
    yield from start_up()
    yield from dump()
