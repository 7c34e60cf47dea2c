"""Building against the time of filling the same memory, in one run on warm memory.

Prints, for each case, the median, the limit's median and their ratio (or microseconds a region),
and ends with status 1 when a goal is missed.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from ttbr.arch.regime import EL1
from ttbr.build import KERNEL_DATA, KERNEL_TEXT, build, estimate, layout, table_params
from ttbr.build.attributes import Attributes
from ttbr.regions import Region, RegionMap

ROUNDS = 7
MOST_RATIO, MOST_MICROSECONDS = 2.0, 20.0
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


def pages(size: int) -> float:
    """*size* bytes as 4K pages into warm memory: the ratio to a NumPy fill of that memory."""
    regions = [Region(1 << 40, 1 << 41, size, KERNEL_DATA.replace(largest=4096))]  # type: ignore[arg-type]
    needed = estimate(regions, PARAMS)
    words = np.ones(needed.bytes // 8, np.uint64)
    buffer = words.data.cast("B")
    build_s, limit_s = interleaved(
        lambda: build(regions, PARAMS, base=1 << 32, buffer=buffer), lambda: words.fill(0x703)
    )
    ratio = build_s / limit_s
    print(
        f"{size >> 30:5} GB of 4K pages, {needed.bytes >> 20} MB of tables: {build_s:.3f} s; "
        f"fill {limit_s:.3f} s; ratio {ratio:.2f}"
    )
    return ratio


def streamed(size: int) -> None:
    """The same, a chunk at a time: no memory of that size is there at all."""
    regions = [Region(1 << 40, 1 << 41, size, KERNEL_DATA.replace(largest=4096))]  # type: ignore[arg-type]
    (seconds,) = interleaved(lambda: sum(1 for _ in layout(regions, PARAMS, base=1 << 32).chunks()))
    print(f"{size >> 30:5} GB of 4K pages, streamed: {seconds:.3f} s")


def scattered(count: int) -> bool:
    """*count* regions of 4K to 64 MB, seven of ten with their offset in 2 MB kept."""
    rng, at, regions = random.Random(1), 0, []
    styles: list[Attributes] = [KERNEL_DATA, KERNEL_TEXT.replace(contiguous=True)]
    for _ in range(count):
        at += rng.randrange(1, 1 << 16) << 12
        size = rng.randrange(1, 1 << 14) << 12
        pa = rng.randrange(1 << 26) << 21 | at & (1 << 21) - 1
        if rng.random() > 0.7:
            pa = rng.randrange(1 << 35) << 12
        regions.append(Region(at, pa, size, rng.choice(styles)))  # type: ignore[arg-type]
        at += size
    whole = RegionMap(regions)
    needed = estimate(whole, PARAMS)
    words = np.ones(needed.bytes // 8, np.uint64)
    buffer = words.data.cast("B")
    build_s, estimate_s, limit_s = interleaved(
        lambda: build(whole, PARAMS, base=1 << 47, buffer=buffer),
        lambda: estimate(whole, PARAMS),
        lambda: words.fill(0),
    )
    each = build_s / count * 1e6
    print(
        f"{count} scattered regions, {needed.total} tables: {each:.1f} us a region "
        f"(goal {MOST_MICROSECONDS:.0f}); estimate {estimate_s / count * 1e6:.1f}; "
        f"fill {limit_s / count * 1e6:.1f}"
    )
    return each <= MOST_MICROSECONDS


def main() -> int:
    """Run all cases; 1 when a goal is missed."""
    pages(1 << 34)
    good = [pages(1 << 40) <= MOST_RATIO, scattered(10_000), scattered(300)]
    streamed(1 << 40)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
