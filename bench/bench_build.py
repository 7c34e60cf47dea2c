"""Building against the time of filling the same memory, in one run on warm memory."""

import random
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from goal import Goal

from ttbr.arch.geometry import PA, VA
from ttbr.arch.regime import EL1
from ttbr.build import KERNEL_DATA, KERNEL_TEXT, build, estimate, table_params
from ttbr.build.attributes import Attributes
from ttbr.regions import Region, RegionMap

ROUNDS = 7
PARAMS = table_params(EL1, "4K", 48)


def interleaved(*jobs: Callable[[], object]) -> list[float]:
    """The median seconds of each job; the jobs take turns, so that all see the same machine."""
    seconds: list[list[float]] = [[] for _ in jobs]
    for _ in range(ROUNDS):
        for job, found in zip(jobs, seconds, strict=True):
            start = time.perf_counter()
            job()
            found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in seconds]


def pages(size: int) -> Goal:
    """*size* bytes as 4K pages into warm memory: the ratio to a NumPy fill of that memory."""
    regions = [Region(VA(1 << 40), PA(1 << 41), size, KERNEL_DATA.replace(largest=4096))]
    needed = estimate(regions, PARAMS)
    words = np.ones(needed.bytes // 8, np.uint64)
    buffer = words.data.cast("B")
    made, limit = interleaved(
        lambda: build(regions, PARAMS, base=1 << 32, buffer=buffer), lambda: words.fill(0x703)
    )
    name = f"{size >> 40} TB of 4K pages ({needed.bytes >> 20} MB, {made:.3f} s) over a fill"
    return Goal(name, made / limit, 2, "x")


def scattered(count: int) -> Goal:
    """*count* regions of 4K to 64 MB, seven of ten with their offset in 2 MB kept."""
    rng, at, regions = random.Random(1), 0, []
    styles: list[Attributes] = [KERNEL_DATA, KERNEL_TEXT.replace(contiguous=True)]
    for _ in range(count):
        at += rng.randrange(1, 1 << 16) << 12
        size = rng.randrange(1, 1 << 14) << 12
        pa = rng.randrange(1 << 26) << 21 | at & (1 << 21) - 1
        if rng.random() > 0.7:
            pa = rng.randrange(1 << 35) << 12
        regions.append(Region(VA(at), PA(pa), size, rng.choice(styles)))
        at += size
    whole = RegionMap(regions)
    words = np.ones(estimate(whole, PARAMS).bytes // 8, np.uint64)
    buffer = words.data.cast("B")
    (made,) = interleaved(lambda: build(whole, PARAMS, base=1 << 47, buffer=buffer))
    return Goal(f"{count} scattered regions, each", made / count * 1e6, 20, "us")


def goals() -> Iterator[Goal]:
    yield pages(1 << 40)
    yield scattered(10_000)
    yield scattered(300)
