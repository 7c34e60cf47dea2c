"""Jobs that several tests of the emulators run."""

from collections.abc import Iterator
from pathlib import Path

from ttbr.arch.geometry import PA, VA
from ttbr.arch.regime import EL2
from ttbr.build import Arena, Attributes, build, table_params
from ttbr.emulate.jobs import plan_job, text_job
from ttbr.emulate.run import Job
from ttbr.emulate.scenario_job import scenario_job
from ttbr.linux.config import KernelConfig, configure
from ttbr.linux.el1 import El1, el1_tables
from ttbr.linux.realise import realise
from ttbr.linux.strategies import STRATEGIES, plan
from ttbr.regions import Region
from ttbr.switch.problem import Problem
from ttbr.switch.scenario import read_scenario

GIB = 1 << 30
SEATTLE, SBSA, LOW = 0x80_0000_0000, 0x100_0000_0000, 0x8000_0000
RWX = Attributes(access="rwx")
SCENARIOS = Path(__file__).parent.parent / "examples" / "scenarios"

ENABLE = """
    msr ttbr0_el2, x0
    msr tcr_el2, x1
    msr mair_el2, x2
    isb
    tlbi alle2
    dsb sy
    msr sctlr_el2, x3
    isb
"""


def enable_job(base: int, bits: int, text: str = ENABLE, map_at: int | None = None) -> Job:
    """Code at PA *base* + 4 KiB turns the EL2 MMU on, with *bits* of input addresses.

    The page of the code is mapped at its own address, or at *map_at*; where the tables do not reach
    as far, at its address modulo their size, which is what a 39-bit ID map comes to.
    """
    code = base + 0x1000
    va = (code if map_at is None else map_at) % (1 << bits)
    tables = build(
        [Region(VA(va), PA(code), 0x1000, RWX)], table_params(EL2, "4K", bits), base=base + 0x10000
    )
    r = tables.registers
    inputs = {"x0": "TTBR0_EL2", "x1": "TCR_EL2", "x2": "MAIR_EL2", "x3": "SCTLR_EL2"}
    registers = {x: r[name] for x, name in inputs.items()}
    return text_job(f"{bits}-bit ID map", text, code, tables.pages(), registers, 2)


def naive_job() -> Job:
    """From 4 levels to 3, TTBR0 and TCR one after the other, on a page that both tables map."""
    code = 0x8000_1000
    page = [Region(VA(code), PA(code), 0x1000, RWX)]
    wide = build(page, table_params(EL2, "4K", 48), base=0x8001_0000)
    narrow = build(page, table_params(EL2, "4K", 39), base=0x8003_0000)
    after = {"x4": narrow.registers["TTBR0_EL2"], "x5": narrow.registers["TCR_EL2"]}
    text = "msr ttbr0_el2, x4\n msr tcr_el2, x5\n isb\n nop\n"
    pages = wide.pages() | narrow.pages()
    return text_job("naive switch", text, code, pages, wide.registers | after, 2)


def kernel(release: str, page: str, bits: int, base: int, **more: bool) -> KernelConfig:
    return configure(
        release, page, bits, base + 0x200000, image_end=base + 0x800000,
        idmap_text=base + 0x400000, hyp_text=base + 0x5F0000, **more,
    )  # fmt: skip


BOARDS = {
    f"{name} {page}/{bits}": (kernel(release, page, bits, base), [(base, 16 * GIB)])
    for name, base in (("seattle", SEATTLE), ("sbsa", SBSA), ("low", LOW))
    for release, page, bits in (("4.5", "4K", 39), ("5.15", "64K", 42), ("6.1", "16K", 36))
}


def strategy_jobs() -> Iterator[tuple[str, str]]:
    """(board, strategy) of each strategy that serves a board with tables of its own."""
    for board, (config, memory) in BOARDS.items():
        for name in STRATEGIES:
            found = plan(name, config, memory)
            if found.applicable and found.roots:
                yield board, name


def strategy_job(board: str, name: str) -> Job:
    config, memory = BOARDS[board]
    arena = Arena.at(config.image.end + (16 << 20), config.granule)
    return plan_job(realise(plan(name, config, memory), arena))


def el1(release: str, base: int) -> El1:
    config = kernel(release, "4K", 39, base)
    return el1_tables(config, [(base, 4 * GIB)], Arena.at(config.image.end + (16 << 20)))


# routine, release, what is at TTBR0 before and after
EL1_RUNS = [
    ("enable", "4.1", "idmap", "idmap"),
    ("enable", "6.1", "idmap", "idmap"),
    ("uninstall-idmap", "4.4", "idmap", "reserved"),
    ("uninstall-idmap", "6.1", "idmap", "process"),
    ("install-idmap", "4.6", "process", "idmap"),
    ("install-idmap", "6.1", "process", "idmap"),
    ("replace-ttbr1", "4.6", "idmap", "idmap"),
    ("replace-ttbr1", "6.12", "idmap", "idmap"),
    ("resume", "6.1", "idmap", "idmap"),
    ("kexec", "5.4", "idmap", "idmap"),
    ("lpa2-remap", "6.12", "idmap", "idmap"),
]


def scenario(path: Path) -> tuple[Problem, Job]:
    """The problem of a scenario file and the job that runs it."""
    read = read_scenario(path)
    return read.problem, scenario_job(read.problem, read.code, read.registers)
