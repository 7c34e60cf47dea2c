"""The story from end to end: a board, a kernel, why an extra level, the tables, the proof, the run.

Each step is a command that a user would type; this file only strings them together.
"""

import contextlib
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from ttbr.cli import main

ROOT = Path(__file__).parent.parent
CAPTURE = "examples/captures/lin61-4k39-512G-nvhe/22_el2_mmu_on/tables.elf.gz"
KERNEL = "--va-bits 39 --era 4.1 --image 0x8000080000"

# (what it is about, command)
STORY = (
    (
        "A board whose RAM begins at 512 GB, and a kernel with 39-bit addresses. Before Linux 4.1\n"
        "its ID map has 39 bits too, and the first fetch after the MMU comes on dies:",
        "run examples/seattle/before-4.1.toml",
    ),
    ("Why, and what it needs:", f"plan seattle {KERNEL}"),
    (
        "With the extra level the same code arrives at its kernel address:",
        "run examples/seattle/since-4.1.toml",
    ),
    (
        "At EL2 there is one TTBR and one T0SZ for the ID map and the HYP tables. The tables that\n"
        "Linux 4.1 makes for both, a root of its own over the two trees:",
        "build {plan} -o {tables}",
    ),
    (
        "What the CPU sees in them:",
        "dump {tables} --base 0x8001200000 --ttbr0-el2 0x8001200000 --tcr-el2 0x80853518 "
        "--mair-el2 0xff",
    ),
    (
        "Switching to them is safe on every CPU that the architecture allows; these barriers\n"
        "carry the proof:",
        f"prove --strategy merged-root --board seattle {KERNEL} --barriers",
    ),
    (
        "And it arrives, on an emulated CPU, at EL2, above 512 GB:",
        f"run --strategy merged-root --board seattle {KERNEL}",
    ),
    (
        "The naive way, TTBR0_EL2 and then T0SZ, is refuted:",
        "prove examples/seattle/naive-switch.toml",
    ),
    (
        "and dies as soon as the TLB does not happen to hold the page:",
        "run examples/seattle/naive-switch.toml --cold",
    ),
    (
        "Last, a real kernel's HYP tables on such a board, read from a dump:",
        f"walk {CAPTURE} 0x80003f2854",
    ),
)


def step(text: str, command: str) -> None:
    """Say *text*, show *command* and run it."""
    print(f"\n{text}\n\n$ ttbr {command}", flush=True)
    main(shlex.split(command))


def tell(folder: str) -> None:
    """The whole story; files go to *folder*."""
    plan, tables = f"{folder}/plan.json", f"{folder}/tables.bin"
    with open(plan, "w") as file, contextlib.redirect_stdout(file):
        main(shlex.split(f"plan seattle {KERNEL} --json"))
    for text, command in STORY:
        step(text, command.format(plan=plan, tables=tables))


if __name__ == "__main__":
    os.chdir(ROOT)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        tell(directory)
    print(f"\n({time.monotonic() - began:.1f} s)")
    sys.exit(0)
