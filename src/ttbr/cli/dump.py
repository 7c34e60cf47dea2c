"""List the mappings of an image, merged; filters, a summary, and the kernel's own ptdump form."""

import sys
import time

from ttbr.arch.regime import Regime, Translated, WalkParams
from ttbr.cli.source import (
    add_source,
    check_root,
    image_of,
    number,
    regime_from,
    registers_from,
    stage2_from,
)
from ttbr.errors import InvalidError, TtbrError
from ttbr.memory.image import Image
from ttbr.report.listing import FILTERS, Summary, line
from ttbr.report.words import half_text
from ttbr.walk.iterate import Item, Run, Unreadable, combine, runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator

    Halves = list[tuple[Regime | None, WalkParams]]

ALL = (0, (1 << 64) - 1)


def configure(parser: "ArgumentParser") -> None:
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


def _halves(options: "Namespace", image: Image) -> "Iterator[tuple[Regime | None, Translated]]":
    """The halves to list, each walkable or the reason why it is not."""
    registers = registers_from(options, image)
    if options.regime == "stage2":
        yield None, stage2_from(registers)
        return
    regime = regime_from(options, registers)
    wanted: list[Translated | None] = [regime.lower, regime.upper]
    if options.half is not None:
        wanted = [regime.lower if options.half == "lower" else regime.upper]
    for half in wanted:
        if half is None and options.half is not None:
            raise InvalidError(f"--half {options.half}: regime {regime.name} has one range")
        if half is not None and not (isinstance(half, WalkParams) and half.epd):
            yield regime, half


def _readable(options: "Namespace", image: Image) -> "tuple[Halves, int]":
    """The halves that can be listed and how many cannot; raises when none can.

    One bad half is normal (firmware's stale TTBR, a T1SZ for later): it must not hide the other.
    """
    kept: Halves = []
    refused: list[TtbrError] = []
    for regime, half in _halves(options, image):
        try:
            if isinstance(half, InvalidError):
                raise half
            check_root(image, regime, half)
            kept.append((regime, half))
        except TtbrError as why:
            refused.append(why)
    if refused and not kept:
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


def _progress(items: "Iterable[Item]") -> "Iterator[Item]":
    """After a second, a count on standard error (a terminal only) that the listing goes on."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield from items
        return
    begin = time.monotonic()
    status = None
    count = 0
    for count, item in enumerate(items, 1):
        if count % 1024 == 0 and time.monotonic() - begin > 1:
            if status is None:
                from rich.console import Console

                status = Console(stderr=True).status("listing")
                status.start()
            status.update(f"{count} mappings, at {item.va:#x}")
        yield item
    if status is not None:
        status.stop()


def _list(options: "Namespace", image: Image, regime: Regime | None, p: WalkParams) -> Summary:
    summary = Summary()
    low, high = _range(options.range)
    found = runs(image.memory, p, regime, low=low, high=high, count=summary.tables)
    items = summary.count(_selected(options, _progress(found)))
    if options.summary:
        for _ in items:
            pass
        return summary
    for item in items:
        if options.combined and isinstance(item, Run):
            assert regime is not None
            for part in combine(image.memory, regime, item):
                print(line(part))
        else:
            print(line(item))
    return summary


def _json(options: "Namespace", image: Image, halves: "Halves") -> int:
    import json

    from ttbr.report.plain import plain_run

    low, high = _range(options.range)
    listing = []
    bad = 0
    for regime, p in halves:
        summary = Summary()
        found = runs(image.memory, p, regime, low=low, high=high, count=summary.tables)
        items = list(summary.count(_selected(options, found)))
        if options.combined and regime is not None:
            items = [
                part
                for item in items
                for part in (
                    combine(image.memory, regime, item) if isinstance(item, Run) else [item]
                )
            ]
        bad += summary.unreadable
        listing.append(
            {
                "half": p.name,
                "root": hex(p.root),
                "granule": p.granule.name,
                "input_bits": p.input_bits,
                "start_level": p.start_level,
                "mappings": [plain_run(item) for item in items],
                "summary": summary.plain(),
            }
        )
    print(json.dumps(listing, indent=1))
    return int(bad > 0)


def _ptdump(options: "Namespace", image: Image, halves: "Halves") -> int:
    from ttbr.report.ptdump import ptdump

    if options.only or options.level is not None or options.combined:
        raise InvalidError("--ptdump lists everything: it takes no --only, --level or --combined")
    low, high = _range(options.range)
    for regime, p in halves:
        for text in ptdump(p, runs(image.memory, p, regime, low=low, high=high, holes=True)):
            print(text)
    return 0


def run(options: "Namespace") -> int:
    image = image_of(options)
    halves, refused = _readable(options, image)
    if options.combined and (not halves or halves[0][0] is None or halves[0][0].stage2 is None):
        raise InvalidError("--combined: stage 2 is not in force (HCR_EL2.VM=0)")
    if options.ptdump:
        return _ptdump(options, image, halves) or int(refused > 0)
    if options.json:
        return _json(options, image, halves) or int(refused > 0)
    bad = refused
    for regime, p in halves:
        print(f"# {half_text(p)}")
        summary = _list(options, image, regime, p)
        print(f"# {summary.text()}")
        bad += summary.unreadable
    return int(bad > 0)
