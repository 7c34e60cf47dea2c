"""What is proved SAFE does not die: scenarios with mutated programs, and random kernels on random
boards, are proved, and what is SAFE runs on emulated CPUs and under our own walk.

One such death refutes the proof (an arrival proves nothing). Seeds are in the names of the tests.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from emulate_tables import needs_qemu, needs_unicorn
from ttbr.emulate import qemu_run
from ttbr.emulate.planned import planned_job, sequence_job
from ttbr.emulate.replay import replay
from ttbr.emulate.run import Job
from ttbr.emulate.scenario_job import scenario_job
from ttbr.emulate.unicorn_run import run_both
from ttbr.errors import InvalidError, TtbrError, UnsupportedError
from ttbr.linux.config import KernelConfig, configure
from ttbr.linux.strategies import STRATEGIES, plan
from ttbr.switch.planned import EL1_SEQUENCES, el1_problem, planned_problem
from ttbr.switch.prove import prove
from ttbr.switch.scenario import parse_scenario

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"
SCENARIOS = sorted(EXAMPLES.glob("s*/*.toml"))
PROGRAM = re.compile(r'(?s)^(.*\[program\].*?text = """\n)(.*?)(""".*)$')
LINE = re.compile(r"(\s*\w+:|)\s*(?!//)(\S.*)$")  # label, instruction
INSERTED = ("isb", "dsb ish", "dsb nsh", "tlbi alle2", "tlbi vmalle1")

GIB, MIB = 1 << 30, 1 << 20
PAGES = [("4K", 39), ("4K", 48), ("64K", 42), ("64K", 48), ("16K", 36), ("16K", 47), ("16K", 48)]
ERAS = ["3.14", "4.1", "4.4", "4.6", "4.9", "4.17", "5.4", "5.10", "5.15", "6.1", "6.9", "7.0"]


@dataclass(frozen=True)
class Proved:
    """What was proved SAFE, in words to find it again, and its run."""

    what: str
    job: Job


def mutate(lines: list[str], rng: Random) -> None:
    """One change of a program: an instruction less, two exchanged, one repeated or added, or other
    registers. Labels stay where they are."""
    found = [(number, m[1], m[2]) for number, line in enumerate(lines) if (m := LINE.match(line))]
    here, label, text = rng.choice(found)
    there, other_label, other = rng.choice(found)
    (kind,) = rng.choices(("drop", "exchange", "repeat", "add", "rename"), (4, 3, 1, 1, 1))
    if kind == "drop":
        lines[here] = f"{label} nop"
    elif kind == "exchange":
        lines[here], lines[there] = f"{label} {other}", f"{other_label} {text}"
    elif kind == "rename":
        renamed = re.sub(r"\bx[0-9]\b", lambda _: f"x{rng.randrange(6)}", text)
        lines[here] = f"{label} {renamed}"
    else:
        lines.insert(here + 1, f" {other if kind == 'repeat' else rng.choice(INSERTED)}")


def mutants(seed: int, count: int) -> Iterator[Proved]:
    """Those of *count* mutated scenarios that are proved SAFE."""
    rng = Random(seed)
    for _ in range(count):
        path = rng.choice(SCENARIOS)
        parts = PROGRAM.match(path.read_text())
        assert parts is not None, path
        lines = parts[2].splitlines()
        for _ in range(rng.choice((1, 1, 2, 2, 3))):
            mutate(lines, rng)
        program = "\n".join(lines) + "\n"
        try:
            scenario = parse_scenario(parts[1] + program + parts[3], path.name, str(path.parent))
            if not prove(scenario.problem).safe:
                continue
            job = scenario_job(scenario.problem, scenario.code, scenario.registers)
        except TtbrError:  # no such instruction, a loop, a label twice
            continue
        yield Proved(f"{path.name} with the program\n{program}", job)


def random_kernel(rng: Random) -> tuple[KernelConfig, list[tuple[int, int]], str]:
    """(kernel, memory, both in words); `InvalidError` where no kernel can be so."""
    (page, va_bits), era = rng.choice(PAGES), rng.choice(ERAS)
    base = 1 << rng.choice((31, 32, 35, 36, 37, 38, 39, 39, 39, 40, 41, 42, 43))
    base += rng.choice((0, 0, 0, -2 * MIB, -GIB, rng.randrange(1 << 12) * 2 * MIB))
    size = rng.choice((1, 4, 16, 64)) * GIB
    image = base + rng.randrange(64) * 2 * MIB + rng.choice((0, 0x80000))
    end = image + rng.choice((1, 8, 16, 40)) * MIB
    kaslr = rng.random() < 0.2
    words = f"{era} {page}/{va_bits}, RAM {base:#x}+{size:#x}, image {image:#x}-{end:#x}"
    config = configure(era, page, va_bits, image, image_end=end, kaslr=kaslr)
    return config, [(base, size)], words


def kernels(seed: int, count: int) -> Iterator[Proved]:
    """Those of *count* strategies and as many EL1 sequences on random kernels that are SAFE."""
    rng = Random(seed)
    strategies = [name for name in STRATEGIES if name != "vhe"]
    for number in range(2 * count):
        name = rng.choice(list(EL1_SEQUENCES) if number % 2 else strategies)
        try:
            config, memory, words = random_kernel(rng)
            if number % 2:
                problem = el1_problem(name, config, memory)
            else:
                problem = planned_problem(plan(name, config, memory))
            if not prove(problem).safe:
                continue
            job = (sequence_job if number % 2 else planned_job)(name, config, memory)
        except InvalidError:  # no such kernel, or it does not have the routine or these tables
            continue
        yield Proved(f"{name} of {words}", job)


def went_wrong(job: Job) -> str:
    """How *job* died on Unicorn, with a warm or a cold TLB, or under our walk; empty if it did
    not."""
    ours = replay(job)
    if ours.death is not None:
        return str(ours)
    try:
        both = run_both(job)
    except UnsupportedError:  # FEAT_LPA2, or more than 44 bits
        return ""
    return both.stale or (str(both.warm) if both.warm.death is not None else "")


def check(proved: Iterator[Proved], least: int) -> None:
    """None of *proved* dies, and there are at least so many."""
    count = 0
    for safe in proved:
        wrong = went_wrong(safe.job)
        assert not wrong, f"proved SAFE, but {wrong}: {safe.what}"
        count += 1
    assert count >= least


@needs_unicorn
@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_scenarios(seed: int) -> None:
    check(mutants(seed, 750), 90)


@needs_unicorn
@pytest.mark.parametrize("seed", [1])
def test_random_kernels(seed: int) -> None:
    check(kernels(seed, 50), 30)


@needs_qemu
@pytest.mark.parametrize("seed", [3])
def test_mutated_scenarios_on_a_machine(seed: int) -> None:
    proved = list(mutants(seed, 60))
    assert len(proved) >= 5
    for safe in proved:
        outcome = qemu_run.run(safe.job)
        assert outcome.death is None, f"proved SAFE, but {outcome}: {safe.what}"
