"""Running a whole strategy: on Unicorn, under our own walk, on a QEMU machine with its start."""

from collections.abc import Iterator
from functools import partial

from goal import Goal, best

from ttbr.build import Arena
from ttbr.emulate import qemu_run
from ttbr.emulate.jobs import plan_job
from ttbr.emulate.replay import replay
from ttbr.emulate.run import Job
from ttbr.emulate.unicorn_run import run_both
from ttbr.linux.config import configure
from ttbr.linux.realise import realise
from ttbr.linux.strategies import plan

SEATTLE, SBSA = 0x80_0000_0000, 0x100_0000_0000


def job(name: str, release: str, base: int) -> Job:
    """A strategy of a 39-bit kernel with 4 KiB pages and 16 GiB of RAM at *base*."""
    config = configure(
        release,
        "4K",
        39,
        base + 0x20_0000,
        image_end=base + 0x80_0000,
        idmap_text=base + 0x40_0000,
        hyp_text=base + 0x5F_0000,
    )
    arena = Arena.at(config.image.end + (16 << 20), config.granule)
    return plan_job(realise(plan(name, config, [(base, 16 << 30)]), arena))


def goals() -> Iterator[Goal]:
    merged, skip = job("merged-root", "4.4", SEATTLE), job("level-skip-v1", "6.1", SEATTLE)
    for name, one in (("merged-root", merged), ("level-skip-v1", skip)):
        yield Goal(
            f"{name} on Unicorn, warm and cold", best(partial(run_both, one)) * 1e3, 50, "ms"
        )
    yield Goal(
        "level-skip-v1 on Unicorn with our walk", best(partial(replay, skip)) * 1e3, 50, "ms"
    )
    virt = best(partial(qemu_run.run, merged), 3)
    yield Goal("merged-root on QEMU virt above 512 GB, with its start", virt, 2, "s")
    sbsa = job("merged-root", "4.4", SBSA)
    used = best(partial(qemu_run.run, sbsa, qemu_run.SBSA_REF), 3)
    yield Goal("merged-root on QEMU sbsa-ref at 1 TB, with its start", used, 2, "s")
