"""Build tables, from a plan (`ttbr plan --json`) or from regions in TOML, and write them out.

Every key of a regions file is in docs/files.md, with an example. The registers that go with the
tables are printed. What a plan file says is planned anew, so that
the tables always follow the rules of this version.
"""

import os
from contextlib import contextmanager, suppress
from pathlib import Path

from ttbr.arch.regime import STAGE2
from ttbr.cli.progress import say
from ttbr.cli.source import REGIMES, number
from ttbr.errors import InvalidError, UnreadableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from typing import BinaryIO

    from ttbr.build import TableSet
    from ttbr.report.built import Built

SUFFIXES = {".bin": "bin", ".o": "elf", ".elf": "elf", ".s": "asm", ".h": "c", ".rs": "rust"}
FORMATS = ("bin", "elf", "asm", "c", "rust")
_LIMIT = 16 << 20
# What the boot of a plan writes, by the names of `Realised.values`.
_BOOT_REGISTERS = {
    "TTBR0_EL2": "boot_ttbr0",
    "TCR_EL2": "tcr",
    "MAIR_EL2": "mair",
    "SCTLR_EL2": "sctlr",
}


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr build``."""
    parser.add_argument(
        "input", metavar="PLAN_OR_REGIONS", help="plan (JSON) or regions (TOML); - for stdin"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the tables")
    parser.add_argument("--format", choices=FORMATS, help="default: by the suffix of FILE")
    parser.add_argument("--name", default="tables", help="symbol prefix in elf, asm, c, rust")
    parser.add_argument(
        "--base",
        metavar="ADDR",
        help="physical address of the first table (default for plans: free RAM after the image)",
    )
    parser.add_argument("--budget", type=int, metavar="N", help="at most N tables")
    parser.add_argument(
        "--estimate", action="store_true", help="only tell how many tables it takes"
    )
    parser.add_argument("--json", action="store_true", help="print registers and counts as JSON")
    group = parser.add_argument_group("for regions")
    group.add_argument("--regime", choices=[*REGIMES, "stage2"], default="el1", help="default: el1")
    group.add_argument("--granule", choices=("4K", "16K", "64K"), default="4K", help="default: 4K")
    group.add_argument("--input-bits", type=int, default=48, help="64 - T0SZ (default: 48)")
    group.add_argument("--upper", action="store_true", help="the TTBR1 half")
    group.add_argument("--ds", action="store_true", help="52-bit format of 4K and 16K (FEAT_LPA2)")
    group.add_argument("--lpa", action="store_true", help="52-bit format of 64K (FEAT_LPA)")
    group.add_argument("--output-bits", type=int, help="physical address size")
    group.add_argument("--start", type=int, metavar="LEVEL", help="start level of stage 2")


def read_input(name: str) -> tuple[str, str]:
    """(the text of the file *name* or, for ``-``, of standard input; what errors call it)."""
    where = "standard input" if name == "-" else name
    try:
        # 0 is the descriptor of standard input, which is not to be closed.
        with open(0 if name == "-" else name, encoding="utf-8", closefd=name != "-") as file:
            text = file.read(_LIMIT + 1)
    except OSError as error:
        raise UnreadableError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadableError(f"{where}: not a text file") from None
    if len(text) > _LIMIT:
        raise UnreadableError(f"{where}: too large for a plan or regions")
    return text, where


def _base(options: "Namespace") -> int | None:
    return None if options.base is None else number(options.base, "--base", 52)


def request_of(text: str, where: str) -> dict[str, object]:
    """The request in saved plan *text*; `UnreadableError` names the file *where* if it is none."""
    import json

    try:
        request = json.loads(text).get("request")
    except (ValueError, AttributeError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise UnreadableError(f"{where}: not a plan: `ttbr plan --json` writes one")
    return request


def _check_budget(options: "Namespace", total: int, counted: str) -> None:
    if options.budget is not None and total > options.budget:
        raise InvalidError(f"needs {counted}, the budget is {options.budget}")


def _from_plan(options: "Namespace", text: str, where: str) -> "Built":
    """The tables of a saved plan: all of its roots, in the board's RAM."""
    from ttbr.build import features_needed
    from ttbr.cli.plan import replan
    from ttbr.cli.plan_tables import arena_of, parts_of, set_of
    from ttbr.linux.realise import realise
    from ttbr.linux.strategies import plan
    from ttbr.report.built import Built

    board, config, strategy = replan(request_of(text, where), where)
    chosen = plan(strategy, config, board)
    parts = parts_of(chosen)
    total = sum(part.estimate.total for part in parts)
    by_root = "; ".join(f"{part.name}: {part.estimate.text()}" for part in parts)
    text = parts[0].estimate.text() if len(parts) == 1 else f"{total} tables ({by_root})"
    _check_budget(options, total, text)
    needs = tuple(dict.fromkeys(name for part in parts for name in features_needed(part.params)))
    counted = tuple((part.name, part.estimate) for part in parts)
    if options.estimate:
        return Built(counted, needs)
    say(f"building {total} tables")
    made = set_of(realise(chosen, arena_of(chosen, board, _base(options), total)))
    registers = {arm: made.values[name] for arm, name in _BOOT_REGISTERS.items()}
    return Built(counted, needs, made, registers)


def _from_regions(options: "Namespace", text: str, where: str) -> "Built":
    from ttbr.build import attributes_from, build, estimate, features_needed, table_params
    from ttbr.regions import parse_regions
    from ttbr.report.built import Built

    say(f"reading {where}")
    regions = parse_regions(text, attributes_from, where)
    if not len(regions):
        raise UnreadableError(f"{where}: no [[region]] in it")
    regime = STAGE2 if options.regime == "stage2" else REGIMES[options.regime]
    params = table_params(
        regime,
        options.granule,
        options.input_bits,
        upper=options.upper,
        ds=options.ds,
        lpa=options.lpa,
        output_bits=options.output_bits,
        start=options.start,
    )
    counted = estimate(regions, params)
    _check_budget(options, counted.total, counted.text())
    needs = features_needed(params)
    if options.estimate:
        return Built((("", counted),), needs)
    base = _base(options)
    if base is None:
        raise InvalidError("--base: say where the tables will be in physical memory")
    say(f"building {counted.total} tables")
    tables = build(regions, params, base=base)
    return Built((("", counted),), needs, tables.table_set, tables.registers)


def _check_other(source: str, output: str) -> None:
    if os.path.samefile(source, output):
        raise InvalidError(f"--output {output!r}: is the input")


@contextmanager
def _replacing(path: str) -> "Iterator[BinaryIO]":
    """A file that takes the place of *path* when it was written in whole, and is gone otherwise.

    What is no regular file (a pipe, /dev/stdout) is written to as it is.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    path = os.path.realpath(path)
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "xb") as file:
            yield file
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _write(options: "Namespace", tables: "TableSet") -> None:
    from ttbr import build

    suffix = Path(options.output).suffix.lower()
    form = options.format or SUFFIXES.get(suffix)
    if form is None:
        raise InvalidError(f"--output {options.output!r}: say the --format ({', '.join(FORMATS)})")
    say(f"writing {options.output}")
    texts = {"asm": build.assembly, "c": build.c_header, "rust": build.rust_source}
    try:
        if os.path.exists(options.input) and os.path.exists(options.output):
            _check_other(options.input, options.output)
        with _replacing(options.output) as file:
            if form == "bin":
                build.write_binary(tables, file)
            elif form == "elf":
                build.write_elf(tables, file, options.name)
            else:
                file.write(texts[form](tables, options.name).encode())
    except OSError as error:
        raise UnreadableError(f"{options.output}: {error.strerror}") from None


def run(options: "Namespace") -> int:
    """Run ``ttbr build``; the exit status."""
    from ttbr.report.built import plain_built, text_built

    text, where = read_input(options.input)
    is_plan = text.lstrip()[:1] == "{"
    built = (_from_plan if is_plan else _from_regions)(options, text, where)
    if built.tables is not None and options.output is not None:
        _write(options, built.tables)
    if options.json:
        import json

        print(json.dumps(plain_built(built), indent=2))
    else:
        print(text_built(built))
        if built.tables is not None and options.output is not None:
            print(f"written to {options.output}")
    return 0
