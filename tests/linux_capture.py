"""The captures of Linux kernels: configuration, board, symbols and registers of each boot."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from captures import complete, directory
from ttbr import boards
from ttbr.linux.config import KernelConfig, configure
from ttbr.linux.idmap import Extension

CAPTURES = directory()

# capture: release, page, VA_BITS, VHE, extension
KERNELS: dict[str, tuple[str, str, int, bool, Extension]] = {
    "lin61-4k39-512G-nvhe": ("6.1", "4K", 39, False, Extension.EXTRA_LEVEL),
    "lin61-4k39-low-nvhe": ("6.1", "4K", 39, False, Extension.NONE),
    "lin61-16k36-64G-nvhe": ("6.1", "16K", 36, False, Extension.EXTRA_LEVEL),
    "lin61-16k47-low-nvhe": ("6.1", "16K", 47, False, Extension.NONE),
    "lin61-64k42-high-nvhe": ("6.1", "64K", 42, False, Extension.EXTRA_LEVEL),
    "deb61-a57-nvhe": ("6.1", "4K", 48, False, Extension.NONE),
    "deb61-max-vhe": ("6.1", "4K", 48, True, Extension.NONE),
    "deb612-4k52lpa2-max-nvhe": ("6.12", "4K", 52, False, Extension.NONE),
}
NVHE = [name for name, kernel in KERNELS.items() if not kernel[3]]


@dataclass
class Capture:
    """A boot: its configuration from symbols and load address, its board, its moments."""

    path: Path
    config: KernelConfig
    board: boards.Board
    symbols: dict[str, int]
    moments: dict[str, dict[str, Any]]

    def register(self, moment: str, name: str) -> int:
        return int(self.moments[moment]["sysregs"][name], 16)

    def physical(self, symbol: str) -> int:
        return self.symbols[symbol] - self.symbols["_text"] + self.config.image.start


def load(name: str) -> Capture:
    """The capture *name*; skips the test where it is not there."""
    path = CAPTURES / name
    if not complete() or not path.is_dir():
        pytest.skip(f"{name}: set TTBR_CAPTURES to the full set of captures")
    release, page, va_bits, vhe, _ = KERNELS[name]
    symbols = {}
    for line in (path / "kallsyms.txt").read_text().splitlines():
        address, _, name = line.split()[:3]
        symbols[name] = int(address, 16)
    moments = {
        state.parent.name[:3].rstrip("_"): json.loads(state.read_text())
        for state in sorted(path.glob("*/state.json"))
    }
    start = int(moments["08"]["kernel_load_pa"], 16)
    symbols |= {name: int(text, 16) for name, text in moments["08"]["symbols"].items()}
    base = symbols["_text"]
    config = configure(
        release,
        page,
        va_bits,
        start,
        image_end=symbols["_end"] - base + start,
        idmap_text=symbols.get("__idmap_text_start", base) - base + start,
        hyp_text=symbols["__hyp_idmap_text_start"] - base + start,
        va52=va_bits == 52,
        vhe=vhe,
        kaslr=True,
    )
    return Capture(path, config, boards.load(path / "iomem.txt"), symbols, moments)


every = pytest.mark.parametrize("capture", KERNELS, indirect=True)
nvhe = pytest.mark.parametrize("capture", NVHE, indirect=True)
