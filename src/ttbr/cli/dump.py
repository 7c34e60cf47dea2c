"""List the mappings of an image, merged; filters, a summary, and the kernel's own ptdump form."""

import sys

from ttbr.arch.regime import EL1, EL20, Regime, Translated, WalkParams
from ttbr.cli.progress import say
from ttbr.cli.source import (
    add_source,
    check_root,
    image_of,
    number,
    off_text,
    regime_from,
    registers_from,
    stage2_from,
)
from ttbr.errors import InvalidError, TtbrError
from ttbr.memory.image import Image
from ttbr.memory.registerfile import RegisterFile
from ttbr.report.listing import FILTERS, Summary, line
from ttbr.report.words import half_text
from ttbr.walk.iterate import Item, Run, TableCount, Unreadable, combine, runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator

    Halves = list[tuple[Regime | None, WalkParams]]

ALL = (0, (1 << 64) - 1)


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr dump``."""
    add_source(parser)
    parser.add_argument("--half", choices=("lower", "upper"), help="only this half of the VA space")
    parser.add_argument("--range", metavar="LOW-HIGH", help="only addresses in this range")
    parser.add_argument("--level", type=int, choices=range(-1, 4), help="only leaves of this level")
    parser.add_argument(
        "--only", choices=FILTERS, action="append", default=[], help="only such mappings (repeat)"
    )
    parser.add_argument(
        "--combined", action="store_true", help="split by stage 2 and show the physical address"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--ptdump", action="store_true", help="as kernel_page_tables prints it")
    form.add_argument("--summary", action="store_true", help="only the summary")
    form.add_argument("--json", action="store_true", help="print JSON")


def _range(text: str | None) -> tuple[int, int]:
    if text is None:
        return ALL
    low, dash, high = text.partition("-")
    if not dash:
        raise InvalidError(f"--range {text!r}: must be LOW-HIGH")
    span = number(low, "--range"), number(high, "--range")
    if span[0] > span[1]:
        raise InvalidError(f"--range {text!r}: the low end is above the high end")
    return span


def _halves(
    options: "Namespace", registers: RegisterFile, regime: Regime | None
) -> "Iterator[Translated]":
    """The halves to list, each walkable or the reason why it is not; of stage 2 if no *regime*."""
    if regime is None:
        stage2 = stage2_from(registers)
        if options.half is not None:
            raise InvalidError(f"--half {options.half}: stage 2 has one range")
        yield stage2
        return
    wanted: list[Translated | None] = [regime.lower, regime.upper]
    if options.half is not None:
        wanted = [regime.lower if options.half == "lower" else regime.upper]
    for half in wanted:
        if half is None and options.half is not None:
            raise InvalidError(f"--half {options.half}: regime {regime.name} has one range")
        if half is not None:
            yield half


def _readable(
    options: "Namespace", image: Image, registers: RegisterFile, regime: Regime | None
) -> "tuple[Halves, int]":
    """The halves to list, also those with EPD=1, and how many cannot be; raises when none can.

    One bad half is normal (firmware's stale TTBR, a T1SZ for later): it must not hide the other.
    With stage 1 off it is normal that there is none.
    """
    kept: Halves = []
    refused: list[TtbrError] = []
    for half in _halves(options, registers, regime):
        try:
            if isinstance(half, InvalidError):
                raise half
            if regime is not None and isinstance(regime.stage2, InvalidError):
                raise regime.stage2
            if not half.epd:
                check_root(image, regime, half)
            kept.append((regime, half))
        except TtbrError as why:
            refused.append(why)
    if refused and all(half.epd for _, half in kept):
        if regime is not None and not (regime.mmu_on or isinstance(regime.stage2, InvalidError)):
            return [], 0
        raise refused[0]
    for problem in refused:
        print(f"ttbr dump: {problem}", file=sys.stderr)
    return kept, len(refused)


def _selected(options: "Namespace", items: "Iterable[Item]") -> "Iterator[Run | Unreadable]":
    tests = [FILTERS[name] for name in options.only]
    for item in items:
        if isinstance(item, Unreadable):
            yield item
        elif isinstance(item, Run):
            if options.level is not None and item.leaf.level != options.level:
                continue
            if all(test(item) for test in tests):
                yield item


def _counted(tables: TableCount) -> TableCount:
    """*tables*, whose number is the progress."""
    say(lambda: f"{tables.visits} tables listed")
    return tables


def _items(
    options: "Namespace", image: Image, regime: Regime | None, p: WalkParams, summary: Summary
) -> "Iterator[Run | Unreadable]":
    """What is to be listed of a half, counted in *summary*."""
    low, high = options.span
    found = runs(image.memory, p, regime, low=low, high=high, count=_counted(summary.tables))
    for item in summary.count(_selected(options, found)):
        if options.combined and isinstance(item, Run):
            assert regime is not None
            for part in combine(image.memory, regime, item):
                summary.unreadable += isinstance(part, Unreadable)
                yield part
        else:
            yield item


def _text(options: "Namespace", image: Image, halves: "Halves") -> int:
    bad = 0
    for regime, p in halves:
        print(f"# {half_text(p)}")
        if p.epd:
            continue
        if regime is not None and not regime.mmu_on:
            print(f"# stage 1 of {regime.name} is off: these tables are not in use")
        summary = Summary()
        for item in _items(options, image, regime, p, summary):
            if not options.summary:
                print(line(item))
        print(f"# {summary.text()}")
        bad += summary.unreadable
    return int(bad > 0)


def _walked(halves: "Halves") -> "Halves":
    """Without those that have EPD=1."""
    return [(regime, p) for regime, p in halves if not p.epd]


def _json(options: "Namespace", image: Image, halves: "Halves") -> int:
    import json

    from ttbr.report.plain import plain_run

    listing = []
    bad = 0
    for regime, p in _walked(halves):
        summary = Summary()
        items = list(_items(options, image, regime, p, summary))
        bad += summary.unreadable
        listing.append(
            {
                "half": p.name,
                "in_use": regime is None or regime.mmu_on,
                "root": hex(p.root),
                "granule": p.granule.name,
                "input_bits": p.input_bits,
                "start_level": p.start_level,
                "mappings": [plain_run(item) for item in items],
                "summary": summary.plain(),
            }
        )
    say("writing JSON")
    print(json.dumps(listing, indent=1))
    return int(bad > 0)


def _ptdump(options: "Namespace", image: Image, halves: "Halves") -> int:
    from ttbr.report.ptdump import ptdump

    if options.only or options.level is not None or options.combined:
        raise InvalidError("--ptdump lists everything: it takes no --only, --level or --combined")
    low, high = options.span
    for regime, p in halves:
        if regime is None or regime.name not in (EL1, EL20):
            name = "stage 2" if regime is None else regime.name
            raise InvalidError(f"--ptdump: its columns are of {EL1} and {EL20}, not of {name}")
        if p.epd:
            if not _walked(halves):  # else there is a listing to look at
                print(f"# {half_text(p)}", file=sys.stderr)
            continue
        count = _counted(TableCount())
        items = runs(image.memory, p, regime, low=low, high=high, count=count, holes=True)
        for text in ptdump(p, items):
            print(text)
    return 0


def _off(options: "Namespace", regime: Regime, registers: RegisterFile) -> int:
    """Say that stage 1 is off and has no tables, as `ttbr walk` does of an address."""
    text = off_text(regime, registers)
    if options.json:
        import json

        listing: dict[str, object] = {
            "half": None,
            "in_use": False,
            "why_not": text,
            "mappings": [],
        }
        print(json.dumps([listing], indent=1))
    else:
        print(f"# {text}", file=sys.stderr if options.ptdump else sys.stdout)
    return 0


def run(options: "Namespace") -> int:
    """Run ``ttbr dump``; the exit status."""
    options.span = _range(options.range)
    image = image_of(options)
    registers = registers_from(options, image)
    regime = None if options.regime == "stage2" else regime_from(options, registers)
    halves, refused = _readable(options, image, registers, regime)
    if options.combined and (regime is None or regime.stage2 is None):
        raise InvalidError("--combined: stage 2 is not in force (HCR_EL2.VM=0)")
    if regime is not None and not halves:
        return _off(options, regime, registers)
    form = _ptdump if options.ptdump else _json if options.json else _text
    return form(options, image, halves) or int(refused > 0)
