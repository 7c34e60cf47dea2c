"""The ptdump listing against what the kernel itself printed."""

import re
from pathlib import Path

import pytest

from captures import Moment, boots
from ttbr.arch.regime import EL1, regime_of
from ttbr.record import replace
from ttbr.report.ptdump import ptdump
from ttbr.walk import runs

LINE = re.compile(r"0x([0-9a-f]{16})-0x([0-9a-f]{16}) +\d+[KMGTPE] (.*)")

Row = tuple[int, int, str]


def rows(lines: list[str]) -> list[Row]:
    """The lines as rows; neighbours that only a section marker parts are one row."""
    found: list[Row] = []
    for line in lines:
        match = LINE.fullmatch(line.rstrip())
        if match is None:
            assert line.startswith("---["), line
            continue
        start, end, what = int(match[1], 16), int(match[2], 16) or 1 << 64, match[3].rstrip()
        if found and found[-1][1:] == (start, what):
            start = found.pop()[0]
        found.append((start, end, what))
    return found


def ours(boot: Path) -> list[Row]:
    moment = Moment(boot / "42_kernel_irq_from_user")
    regime = regime_of(moment.registers.values, EL1)
    upper = regime.half((1 << 64) - 1)
    roots = {root["name"]: root for root in moment.state["roots"]}
    swapper = replace(upper, root=int(roots["sym:swapper_pg_dir"]["pa"], 16))
    listing = ptdump(swapper, runs(moment.image.memory, swapper, regime, holes=True))
    return rows(list(listing))


@pytest.mark.parametrize("boot", boots("kernel_page_tables.txt"), ids=lambda b: b.name)
def test_same_ranges_and_attributes_as_the_kernel(boot: Path) -> None:
    theirs = rows((boot / "kernel_page_tables.txt").read_text().splitlines())
    assert ours(boot) == theirs
    assert len(theirs) > 30
