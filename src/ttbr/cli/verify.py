"""Verify a plan: build, prove, run and probe it on emulated CPUs; one table at the end.

PLAN is what `ttbr plan --json` printed. A plan that does not work is seen to die where its kernel
does. Exit status: 0 all agree, 1 a contradiction, or a plan that is unsafe or does not work, 2 bad
use or no emulator.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr verify``."""
    parser.add_argument(
        "plan", metavar="PLAN", help="a plan (JSON of `ttbr plan --json`); - for stdin"
    )
    parser.add_argument(
        "--on", choices=("unicorn", "qemu"), action="append", help="only on this (default: both)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: "Namespace") -> int:
    """Run ``ttbr verify``; the exit status."""
    from ttbr.cli.build import read_input, request_of
    from ttbr.cli.plan import replan
    from ttbr.cli.progress import say
    from ttbr.emulate.verify import verify
    from ttbr.errors import TtbrError
    from ttbr.report.verified import plain_verified, text_verified

    text, where = read_input(options.plan)
    board, config, strategy = replan(request_of(text, where), where)
    verified = verify(strategy, config, board, options.on, say)
    if options.json:
        import json

        print(json.dumps(plain_verified(verified), indent=2))
    else:
        print(text_verified(verified))
    failed = [ran.why_not for ran in verified.ran if ran.failed]
    if failed:
        raise TtbrError("; ".join(failed))
    return int(bool(verified.contradictions) or not verified.works)
