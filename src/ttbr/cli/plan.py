"""Plan the ID map and the HYP tables of a kernel on a board, and say why.

BOARD is a name of `ttbr boards`, a device tree blob, a saved /proc/iomem, a kernel log with its
UEFI memory map, or a small TOML file (every key is in docs/files.md, with an example).
"""

from ttbr.cli.progress import say
from ttbr.cli.source import number
from ttbr.errors import InvalidError, UnreadableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ttbr.boards import Board
    from ttbr.linux.config import KernelConfig

__all__ = [
    "add_kernel",
    "board_of",
    "config_of",
    "configure",
    "planned_from",
    "replan",
    "rules_note",
    "run",
]


def add_kernel(parser: "ArgumentParser", required: bool = True) -> None:
    """The arguments that describe a kernel."""
    parser.add_argument("--page", choices=("4K", "16K", "64K"), default="4K", help="page size")
    parser.add_argument("--va-bits", type=int, required=required, help="CONFIG_ARM64_VA_BITS")
    parser.add_argument("--era", metavar="VERSION", required=required, help="Linux, as in 4.1")
    parser.add_argument(
        "--image",
        metavar="ADDR",
        help="where _text is loaded (default: the start of RAM that holds it)",
    )
    parser.add_argument("--image-end", metavar="ADDR", help="_end (default: 16 MiB above)")
    parser.add_argument("--idmap-text", metavar="ADDR", help="the page of .idmap.text")
    parser.add_argument("--hyp-text", metavar="ADDR", help="the page of .hyp.idmap.text")
    parser.add_argument("--pa-bits", type=int, default=48, help="CONFIG_ARM64_PA_BITS (48, 52)")
    parser.add_argument("--va52", action="store_true", help="the CPU has 52-bit addresses")
    parser.add_argument("--vhe", action="store_true", help="the kernel runs at EL2")
    parser.add_argument("--kaslr", action="store_true", help="CONFIG_RANDOMIZE_BASE")
    parser.add_argument("--no-hotplug", action="store_true", help="without CONFIG_HOTPLUG_CPU")


def board_of(name: str) -> "Board":
    """The board called *name*, or read from the file *name*."""
    from ttbr.boards import load

    return load(name)


def config_of(options: "Namespace", board: "Board") -> "KernelConfig":
    """The kernel that the arguments describe, on *board*."""
    from ttbr.linux.config import configure, default_image

    def address(name: str) -> int | None:
        text = getattr(options, name)
        return None if text is None else number(text, f"--{name.replace('_', '-')}", 52)

    if not board.ram:
        raise InvalidError(f"{board.name}: the board has no RAM")
    image = address("image")
    if image is None:
        ram = [(int(window.start), window.size) for window in board.ram]
        image = default_image(ram, options.era, options.page)
    elif not any(w.start <= image <= w.last for w in board.ram):
        raise InvalidError(f"--image {image:#x} is not in the RAM of {board.name}")
    return configure(
        options.era,
        options.page,
        options.va_bits,
        image,
        image_end=address("image_end"),
        idmap_text=address("idmap_text"),
        hyp_text=address("hyp_text"),
        pa_bits=options.pa_bits,
        va52=options.va52,
        vhe=options.vhe,
        kaslr=options.kaslr,
        hotplug=not options.no_hotplug,
    )


def planned_from(options: "Namespace") -> "tuple[Board, KernelConfig]":
    """(board, kernel) for --strategy and --sequence of other commands."""
    for name in ("board", "va_bits", "era"):
        if getattr(options, name) is None:
            raise InvalidError(f"--strategy and --sequence need --{name.replace('_', '-')}")
    board = board_of(options.board)
    return board, config_of(options, board)


def rules_note(options: "Namespace") -> str:
    """For --strategy of other commands: that it follows the rules of another release, if so."""
    from ttbr.linux.strategies import other_rules, plan

    if options.strategy is None:
        return ""
    board, config = planned_from(options)
    return other_rules(plan(options.strategy, config, board), config.release)


# Argument -> its type in a saved plan.
_KERNEL: dict[str, type] = {
    **dict.fromkeys(("board", "page", "era"), str),
    **dict.fromkeys(("va_bits", "pa_bits"), int),
    **dict.fromkeys(("va52", "vhe", "kaslr", "no_hotplug"), bool),
}
_ADDRESSES = ("image", "image_end", "idmap_text", "hyp_text")  # may be null: not given


def _request(options: "Namespace", strategy: str) -> dict[str, object]:
    """What was asked, for a saved plan to be planned anew by `replan`."""
    names = (*_KERNEL, *_ADDRESSES)
    return {name: getattr(options, name) for name in names} | {"strategy": strategy}


def replan(request: dict[str, object], where: str) -> "tuple[Board, KernelConfig, str]":
    """(board, kernel, strategy) of a saved request; `UnreadableError` names the file *where*."""
    from argparse import Namespace

    for name, kind in {**_KERNEL, "strategy": str}.items():
        value = request.get(name)
        if value is None:
            raise UnreadableError(f"{where}: the request lacks {name}")
        if type(value) is not kind:  # bool is an int
            raise UnreadableError(f"{where}: request.{name} is not of the form that plan writes")
    for name in _ADDRESSES:
        if not isinstance(request.get(name), str | None):
            raise UnreadableError(f"{where}: request.{name} is not of the form that plan writes")
    options = Namespace(**{name: request.get(name) for name in (*_KERNEL, *_ADDRESSES)})
    board = board_of(options.board)
    return board, config_of(options, board), str(request["strategy"])


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr plan``."""
    parser.add_argument("board", metavar="BOARD", help="a name of `ttbr boards`, or a file")
    add_kernel(parser)
    parser.add_argument("--strategy", metavar="NAME", help="plan with this strategy")
    parser.add_argument("--compare", action="store_true", help="compare all strategies")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: "Namespace") -> int:
    """Run ``ttbr plan``; the exit status."""
    from ttbr.report import plan as text

    board = board_of(options.board)
    config = config_of(options, board)
    say("comparing the strategies" if options.compare else "planning")
    decision = text.decide(board, config, options.strategy)
    if options.json:
        import json

        request = _request(options, decision.chosen.strategy.name)
        body = {"request": request} | text.plain(decision, options.compare)
        print(json.dumps(body, indent=2))
    else:
        print(text.explain(decision))
        if options.compare:
            print("\n" + text.comparison(board, config))
    return int(not decision.works)
