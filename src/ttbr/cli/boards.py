"""List the boards of the catalogue, or show one board (a name or a file) as it is understood."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr boards``."""
    parser.add_argument("board", metavar="BOARD", nargs="?", help="a name or a file")
    parser.add_argument("--toml", action="store_true", help="print the board as TOML")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: "Namespace") -> int:
    """Run ``ttbr boards``; the exit status."""
    from ttbr.boards import format_board, load, names
    from ttbr.errors import InvalidError
    from ttbr.report.board import board_line, board_text, plain_board

    if options.toml and options.json:
        raise InvalidError("--toml and --json: choose one")
    if options.board is None:
        boards = [load(name) for name in names()]
        if options.toml:
            raise InvalidError("--toml needs a BOARD")
    else:
        boards = [load(options.board)]
    if options.json:
        import json

        print(json.dumps([plain_board(board) for board in boards], indent=2))
    elif options.toml:
        print(format_board(boards[0]), end="")
    elif options.board is None:
        print("\n".join(board_line(board) for board in boards))
    else:
        print(board_text(boards[0]))
    return 0
