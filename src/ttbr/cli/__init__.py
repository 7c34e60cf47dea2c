"""The command line: one module a command, imported when the command is used.

Exit status: 0 answered, 1 the answer is a fault or a finding, 2 bad use or unreadable input (one
line on standard error).
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["COMMANDS", "main", "parser_of"]

# command -> one line of help; the module is ttbr.cli.<command> with `configure` and `run`.
COMMANDS = {
    "walk": "explain the walk of addresses through the tables of an image",
    "dump": "list the mappings of an image, like the kernel's ptdump",
    "decode": "decode a system register or a descriptor, field by field",
    "info": "say what an image holds: memory, registers, regimes",
    "boards": "list boards, or show one (a name, a device tree, /proc/iomem, a UEFI log)",
    "plan": "plan the ID map and the HYP tables of a kernel on a board",
    "prove": "prove that an MMU switch is safe, or show a counterexample",
    "run": "run a switch on an emulated CPU (Unicorn or QEMU)",
    "verify": "build, prove, run and probe a plan, and say whether all agree",
    "build": "build tables from a plan or from regions, and write them out",
}


def parser_of(command: str) -> "ArgumentParser":
    """The argument parser of *command*."""
    from argparse import ArgumentParser, HelpFormatter
    from importlib import import_module

    class Parser(ArgumentParser):
        def error(self, message: str) -> "NoReturn":
            """One line, without the usage."""
            line = " ".join(message.split())
            self.exit(2, f"{self.prog}: {line} (see {self.prog} --help)\n")

    def formatter(prog: str) -> HelpFormatter:
        return HelpFormatter(prog, width=100)  # without a width argparse imports shutil: 3 ms

    module = import_module(f"ttbr.cli.{command}")
    parser = Parser(prog=f"ttbr {command}", description=module.__doc__, formatter_class=formatter)
    parser.set_defaults(run=module.run)
    module.configure(parser)
    return parser


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ttbr COMMAND ...",
            "",
            "AArch64 translation tables: plan, build, prove, run, read.",
            "",
            "commands:",
            *lines,
            "",
            "`ttbr COMMAND --help` tells a command's arguments; `ttbr --version` the version.",
            "Exit status: 0 answered, 1 a fault or a finding, 2 bad use or unreadable input.",
        ]
    )


def _run(command: str, arguments: "Sequence[str]") -> int:
    from ttbr.errors import TtbrError

    parser = parser_of(command)
    given: dict[str, str] = {}
    try:
        if parser.get_default("registers") is not None:
            from ttbr.cli.source import take_registers, take_target

            arguments, given = take_registers(take_target(arguments))
        options = parser.parse_args(arguments)
        options.registers = given
        if not sys.stderr.isatty():
            return int(options.run(options))
        from ttbr.cli.progress import Progress

        with Progress(command):
            return int(options.run(options))
    except TtbrError as error:
        print(f"ttbr {command}: {error}", file=sys.stderr)
        return 2


def _no_output() -> None:
    """What is still buffered for standard output goes nowhere: Python would flush it at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Standard streams that the caller closed (``>&-``, None in Python) take what is printed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            import os

            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _dispatch(words: "list[str]") -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from ttbr import __version__

        print(f"ttbr {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"ttbr: no command {words[0]!r}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(words[0], words[1:])


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command; the exit status."""
    _open_streams()
    try:
        status = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader (head, less) has gone
        _no_output()
        return 0
    except OSError as error:  # a full disk
        print(f"ttbr: {error.strerror or error}", file=sys.stderr)
        _no_output()
        return 2
    except KeyboardInterrupt:
        return 130
