"""Each historical defect: said in a sentence where it is met, silent with the fix."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ttbr.linux.config import configure
from ttbr.linux.eras import NEWEST
from ttbr.linux.history import BUGS, Bug, defects

GIB = 1 << 30
SEATTLE = [(0x8000000000, 16 * GIB)]
LX2160A = [(0x80000000, 0x7BE00000), (0x2080000000, 12 * GIB)]
LOW = [(0x80000000, 2 * GIB)]
EDGE = [(0x7F00000000, 16 * GIB)]


@dataclass
class Met:
    """A configuration that meets a bug in *bad*, not in *good*, nor on the *other* board.

    With *cure* in its configuration it does not meet it in *bad* either.
    """

    bug: str
    bad: str
    good: str
    page: str
    va_bits: int
    memory: list[tuple[int, int]]
    image: int
    says: str
    more: dict[str, Any] = field(default_factory=dict)
    other: bool = True
    cure: dict[str, Any] = field(default_factory=dict)


CASES = [
    Met("vmemmap-by-pa", "4.4", "4.5", "4K", 39, SEATTLE, 0x8000080000, "0x10000000 too many"),
    Met("resume-t0sz", "4.3", "4.4", "4K", 39, SEATTLE, 0x8000080000, "T0SZ 25 while"),
    Met(
        "t0sz-by-flag",
        "5.11",
        "5.12",
        "4K",
        39,
        EDGE,
        0x7F00080000,
        "from 0x8000000000 to 0x82ffffffff",
    ),
    Met(
        "idmap-t0sz-12",
        "5.11",
        "5.12",
        "64K",
        52,
        LOW,
        0x80080000,
        "T0SZ 12",
        other=False,
        cure={"va52": True},
    ),
    Met(
        "idmap-straddles",
        "4.1",
        "4.16",
        "4K",
        39,
        EDGE,
        0x7FFFC00000,
        "straddles 0x8000000000",
        {"image_end": 0x8000400000},
        cure={"image_end": 0x7FFFF00000},
    ),
    Met(
        "two-levels",
        "5.19",
        "6.0",
        "16K",
        36,
        [(1 << 47, 4 * GIB)],
        1 << 47,
        "entry 2048 of the extra level is past the 2048 entries",
    ),
    Met(
        "map-one-more",
        "5.14",
        "5.15",
        "4K",
        39,
        LOW,
        0x80200000,
        "takes the end 0x80600000 as included",
        {"image_end": 0x80600000},
        other=False,
        cure={"image_end": 0x80601000},
    ),
    Met(
        "unmap-idmap-52",
        "4.16",
        "4.17",
        "64K",
        48,
        [(1 << 48, 4 * GIB)],
        (1 << 48) + 0x80000,
        "at root entry 0 instead of 64",
        {"pa_bits": 52},
    ),
    Met("mmio-alias", "4.16", "4.17", "4K", 39, SEATTLE, 0x8000080000, "alias the linear map"),
    Met(
        "idmap-unaligned",
        "4.16",
        "4.17",
        "64K",
        48,
        LOW,
        0x80080000,
        "not aligned to 0x10000",
        {"hyp_text": 0x80123000},
        other=False,
        cure={"hyp_text": 0x80120000},
    ),
    Met(
        "dangling-boot-pgd",
        "4.7",
        "4.8",
        "4K",
        39,
        SEATTLE,
        0x8000080000,
        "entry 1 of the live root",
        {"hotplug": False},
        cure={"hotplug": True},
    ),
    Met(
        "slot-zero",
        "5.9",
        "6.1",
        "4K",
        39,
        EDGE,
        0x7FFFC00000,
        "takes entry 0 from hyp_pgd",
        {"image_end": 0x8000400000, "idmap_text": 0x8000001000, "hyp_text": 0x7FFFD00000},
        cure={"hyp_text": 0x8000002000},
    ),
    Met(
        "slot-zero",
        "5.9",
        "6.1",
        "4K",
        39,
        EDGE,
        0x7FFFC00000,
        "it is mapped at 0x100000",
        {"image_end": 0x8000400000, "idmap_text": 0x7FFFD00000, "hyp_text": 0x8000100000},
        cure={"hyp_text": 0x7FFFE00000},
    ),
    Met(
        "ps-40-bits",
        "4.4",
        "4.5",
        "4K",
        39,
        [(0x10000000000, 4 * GIB)],
        0x10000080000,
        "address size fault",
    ),
    Met(
        "idmap-in-hyp",
        "5.5",
        "5.6",
        "4K",
        39,
        LX2160A,
        0x81A00000,
        "HYP VA range 0:22ffffffff holds the IDMAP page 81a00000",
        {"idmap_text": 0x81A00000},
    ),
    Met(
        "linear-52",
        "5.14",
        "5.15",
        "64K",
        52,
        LOW,
        0x80080000,
        "half of the 52-bit HYP space",
        {"va52": True},
        other=False,
        cure={"va52": False},
    ),
    Met(
        "hyp-erange",
        "6.2",
        "6.3",
        "64K",
        52,
        LOW,
        0x80080000,
        "-34",
        {"va52": True},
        other=False,
        cure={"va52": False},
    ),
    Met(
        "hyp-layout-width",
        "6.19",
        "7.0",
        "4K",
        39,
        LOW,
        0x80080000,
        "in 39 bits although EL2 translates 48",
        other=False,
    ),
    Met(
        "pa-beyond-lpa2",
        "6.13",
        "6.14",
        "4K",
        52,
        [((1 << 48) - GIB, 2 * GIB)],
        (1 << 48) - GIB + 0x80000,
        "PA[51:50]",
        {"pa_bits": 52},
        cure={"va52": True},
    ),
]
BY_NAME = {bug.name: bug for bug in BUGS}


def _names(met: Met, release: str, memory: list[tuple[int, int]], image: int) -> dict[str, str]:
    config = configure(release, met.page, met.va_bits, image, **met.more)
    return {found.bug.name: found.sentence for found in defects(config, memory)}


@pytest.mark.parametrize("met", CASES, ids=lambda met: met.bug)
def test_met_in_the_buggy_releases(met: Met) -> None:
    sentence = _names(met, met.bad, met.memory, met.image)[met.bug]
    assert met.says in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("met", CASES, ids=lambda met: met.bug)
def test_silent_with_the_fix(met: Met) -> None:
    assert met.bug not in _names(met, met.good, met.memory, met.image)
    # Not for its release only: the fixed rule itself finds nothing.
    config = configure(met.good, met.page, met.va_bits, met.image, **met.more)
    assert BY_NAME[met.bug].met(config, met.memory) == ""


@pytest.mark.parametrize("met", [m for m in CASES if m.cure], ids=lambda met: met.bug)
def test_silent_without_the_cause(met: Met) -> None:
    met = replace(met, more=met.more | met.cure)
    assert met.bug not in _names(met, met.bad, met.memory, met.image)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_silent_where_the_linear_map_drops_the_memory(bug: Bug) -> None:
    """D06, 39 bits: memory at 32 TiB is above what the linear map keeps."""
    config = configure(str(bug.last), "4K", 39, 0x40080000, image_end=0x41234000)
    far = [(0x40000000, GIB), (0x200000000000, GIB)]
    found = {found.bug.name: found.sentence for found in defects(config, far)}
    near = {found.bug.name: found.sentence for found in defects(config, far[:1])}
    assert found == near


@pytest.mark.parametrize("met", [m for m in CASES if m.other], ids=lambda met: met.bug)
def test_silent_on_another_board(met: Met) -> None:
    met = replace(met, more={k: v for k, v in met.more.items() if k in ("pa_bits", "hotplug")})
    assert met.bug not in _names(met, met.bad, [(0x40000000, GIB)], 0x40200000)


def test_every_bug_has_a_case() -> None:
    assert {bug.name for bug in BUGS} == {met.bug for met in CASES}
    assert len(BUGS) >= 12
    assert all(bug.first <= bug.last < NEWEST and bug.fix for bug in BUGS)


@pytest.mark.parametrize("release", ["4.17", "5.6", "5.15", "6.8", "7.0"])
def test_an_ordinary_board_has_none(release: str) -> None:
    config = configure(release, "4K", 48, 0x40200000, image_end=0x41234000)
    assert defects(config, [(0x40000000, GIB)]) == ()
