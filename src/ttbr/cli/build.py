"""Build tables, from a plan (`ttbr plan --json`) or from regions in TOML, and write them out.

The registers that go with the tables are printed. What a plan file says is planned anew, so that
the tables always follow the rules of this version.
"""

from pathlib import Path

from ttbr.arch.regime import STAGE2
from ttbr.cli.source import REGIMES, number
from ttbr.errors import InvalidError, UnreadableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ttbr.build import Tables
    from ttbr.build.plan import Estimate

SUFFIXES = {".bin": "bin", ".o": "elf", ".elf": "elf", ".s": "asm", ".h": "c", ".rs": "rust"}
FORMATS = ("bin", "elf", "asm", "c", "rust")
_LIMIT = 16 << 20


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr build``."""
    parser.add_argument("input", metavar="PLAN_OR_REGIONS", help="plan (JSON) or regions (TOML)")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the tables")
    parser.add_argument("--format", choices=FORMATS, help="default: by the suffix of FILE")
    parser.add_argument("--name", default="tables", help="symbol prefix in elf, asm, c, rust")
    parser.add_argument("--base", metavar="ADDR", help="physical address of the first table")
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


def _text(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read(_LIMIT + 1)
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadableError(f"{name}: not a text file") from None
    if len(text) > _LIMIT:
        raise UnreadableError(f"{name}: too large for a plan or regions")
    return text


def _base(options: "Namespace") -> int | None:
    return None if options.base is None else number(options.base, "--base", 52)


def _from_plan(options: "Namespace", text: str) -> "tuple[Estimate | None, Tables | None]":
    """The tables of a saved plan: all of its roots, in one arena."""
    import json

    from ttbr.build import Arena
    from ttbr.linux.realise import realise, table_base
    from ttbr.linux.strategies import plan

    try:
        request = json.loads(text).get("request")
    except (ValueError, AttributeError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise UnreadableError(f"{options.input}: not a plan: `ttbr plan --json` writes one")
    from ttbr.cli.plan import replan

    board, config, strategy = replan(request, options.input)
    chosen = plan(strategy, config, board)
    base = _base(options)
    arena = Arena.at(table_base(chosen) if base is None else base, config.granule)
    made = realise(chosen, arena)
    count = len(made.tables[0].pages())
    if options.budget is not None and count > options.budget:
        raise InvalidError(f"needs {count} tables, the budget is {options.budget}")
    return None, made.tables[0]


def _from_regions(options: "Namespace", text: str) -> "tuple[Estimate, Tables | None]":
    from ttbr.build import attributes_from, build, estimate, table_params
    from ttbr.regions import parse_regions

    regions = parse_regions(text, attributes_from, options.input)
    regime = STAGE2 if options.regime == "stage2" else REGIMES[options.regime]
    params = table_params(
        regime,
        options.granule,
        options.input_bits,
        upper=options.upper,
        ds=options.ds,
        lpa=options.lpa,
        output_bits=options.output_bits,
    )
    counted = estimate(regions, params)
    if options.estimate:
        return counted, None
    base = _base(options)
    if base is None:
        raise InvalidError("--base: say where the tables will be in physical memory")
    return counted, build(regions, params, base=base, budget=options.budget)


def _write(options: "Namespace", tables: "Tables") -> None:
    from ttbr import build

    suffix = Path(options.output).suffix.lower()
    form = options.format or SUFFIXES.get(suffix)
    if form is None:
        raise InvalidError(f"--output {options.output!r}: say the --format ({', '.join(FORMATS)})")
    texts = {"asm": build.assembly, "c": build.c_header, "rust": build.rust_source}
    try:
        with open(options.output, "wb") as file:
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

    text = _text(options.input)
    is_plan = text.lstrip()[:1] == "{"
    counted, tables = (_from_plan if is_plan else _from_regions)(options, text)
    if tables is not None and options.output is not None and not options.estimate:
        _write(options, tables)
    if options.json:
        import json

        print(json.dumps(plain_built(counted, tables), indent=2))
    else:
        print(text_built(counted, tables))
        if tables is not None and options.output is not None:
            print(f"written to {options.output}")
    return 0
