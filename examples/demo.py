"""The story from end to end: a board, a kernel, why an extra level, the tables, the proof, the run.

Each step is a command as it is typed in a checkout; this file only strings them together.
"""

import contextlib
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from ttbr.cli import main

EXAMPLES = Path(__file__).resolve().parent
CAPTURE = "examples/captures/lin61-4k39-512G-nvhe/22_el2_mmu_on/tables.elf.gz"
KERNEL = "--va-bits 39 --era 4.1 --image 0x8000080000"
REFUSED = 2

# (what it is about, commands)
STORY = (
    (
        "A board whose RAM begins at 512 GB, and a kernel with 39-bit addresses. Before Linux 4.1\n"
        "its ID map has 39 bits too, and the first fetch after the MMU comes on dies:",
        ("ttbr run examples/seattle/before-4.1.toml",),
    ),
    ("Why, and what it needs:", (f"ttbr plan seattle {KERNEL}",)),
    (
        "With the extra level the same code arrives at its kernel address:",
        ("ttbr run examples/seattle/since-4.1.toml",),
    ),
    (
        "At EL2 there is one TTBR and one T0SZ for the ID map and the HYP tables. The tables that\n"
        "Linux 4.1 makes for both, a root of its own over the two trees:",
        (
            f"ttbr plan seattle {KERNEL} --json > plan.json",
            "ttbr build plan.json -o tables.bin",
        ),
    ),
    (
        "What the CPU sees in them:",
        (
            "ttbr dump tables.bin --base 0x8001200000 --ttbr0-el2 0x8001200000 "
            "--tcr-el2 0x80823518 --mair-el2 0xff",
        ),
    ),
    (
        "Switching to them is safe on every CPU that the architecture allows; these barriers\n"
        "carry the proof:",
        (f"ttbr prove --strategy merged-root --board seattle {KERNEL} --barriers",),
    ),
    (
        "And it arrives, on an emulated CPU, at EL2, above 512 GB:",
        (f"ttbr run --strategy merged-root --board seattle {KERNEL}",),
    ),
    (
        "The naive way, TTBR0_EL2 and then T0SZ, is refuted:",
        ("ttbr prove examples/seattle/naive-switch.toml",),
    ),
    (
        "It arrives all the same while the TLB happens to hold the page:",
        ("ttbr run examples/seattle/naive-switch.toml",),
    ),
    (
        "and dies when it does not:",
        ("ttbr run examples/seattle/naive-switch.toml --cold",),
    ),
    (
        "Last, a real kernel's HYP tables on such a board, read from a dump:",
        (f"ttbr walk {CAPTURE} 0x80003f2854",),
    ),
)


def step(command: str) -> int:
    """Show *command* and run it; its exit status."""
    print(f"$ {command}", flush=True)
    typed, _, file = command.partition(" > ")
    with contextlib.ExitStack() as stack:
        if file:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(file, "w"))))
        return main(shlex.split(typed)[1:])


def tell() -> bool:
    """The whole story, files in the current directory; whether every command gave an answer."""
    answered = True
    for text, commands in STORY:
        print(f"\n{text}\n")
        for command in commands:
            answered &= step(command) != REFUSED
    return answered


if __name__ == "__main__":
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(EXAMPLES, f"{folder}/examples")
            with contextlib.chdir(folder):
                complete = tell()
        print(f"\n({time.monotonic() - began:.1f} s)", flush=True)
    except BrokenPipeError:  # the reader (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0 if complete else REFUSED)
