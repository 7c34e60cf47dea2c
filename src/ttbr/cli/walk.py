"""Explain, step by step, how addresses translate, and what is mapped there."""

import sys

from ttbr.arch.attributes import PR, PW, PX, UR, UW, UX
from ttbr.arch.faults import Fault
from ttbr.cli.source import (
    add_source,
    check_root,
    image_of,
    number,
    regime_from,
    registers_from,
    stage2_from,
)
from ttbr.errors import InvalidError, TtbrError, UnreadableError
from ttbr.report.explain import explain, explain_stage2
from ttbr.walk.translate import Access, translate, translate_stage2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator

    from ttbr.memory.image import Image
    from ttbr.memory.registerfile import RegisterFile

    # (is a fault, the answer as the library gives it, its text)
    Answer = tuple[bool, object, str]
    Answers = Iterator[tuple[int, Answer | TtbrError]]

_NEED = {"read": (PR, UR), "write": (PW, UW), "execute": (PX, UX)}


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr walk``."""
    add_source(parser)
    parser.add_argument("va", metavar="VA", nargs="+", help="address (stage 2: an IPA)")
    parser.add_argument("--access", choices=_NEED, help="check the permission for this access")
    parser.add_argument("--el0", action="store_true", help="the access is made at EL0")
    parser.add_argument("--stage1", action="store_true", help="stage 1 only (as AT S1E1R)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _access(options: "Namespace", pan: bool) -> Access | None:
    if options.access is None:
        if options.el0:
            raise InvalidError("--el0 needs --access")
        return None
    need = _NEED[options.access][options.el0]
    return Access(("EL0 " if options.el0 else "") + options.access, need, pan)


def _walk_stage2(options: "Namespace", image: "Image", registers: "RegisterFile") -> "Answers":
    if options.stage1:
        raise InvalidError("--stage1: --regime stage2 has no stage 1")
    params = stage2_from(registers)
    access = _access(options, pan=False)
    check_root(image, None, params)

    def answer(ipa: int) -> "Answer":
        found, steps = translate_stage2(image.memory, params, ipa, access)
        return isinstance(found, Fault), (ipa, found, steps), explain_stage2(ipa, found, steps)

    return _each(options, answer)


def _walk(options: "Namespace", image: "Image", registers: "RegisterFile") -> "Answers":
    regime = regime_from(options, registers)
    access = _access(options, registers.pan)

    def answer(va: int) -> "Answer":
        if regime.mmu_on and not regime.half(va).epd:
            check_root(image, regime, regime.half(va))
        found = translate(image.memory, regime, va, access, stage1_only=options.stage1)
        return isinstance(found, Fault), found, explain(regime, va, found)

    return _each(options, answer)


def _each(options: "Namespace", answer: "Callable[[int], Answer]") -> "Answers":
    """(address, its answer or the error that keeps it from one), in the order asked."""
    for va in (number(text, "address") for text in options.va):
        try:
            yield va, answer(va)
        except TtbrError as error:
            yield va, error


def _plain(address: str, va: int, found: "Answer | TtbrError") -> dict[str, object]:
    """An answer as plain values; *address* is what *va* is called."""
    if isinstance(found, TtbrError):
        return {address: hex(va), "error": str(found)}
    from ttbr.report.plain import plain_walk

    return plain_walk(found[1])


def run(options: "Namespace") -> int:
    """Run ``ttbr walk``; the exit status."""
    for text in options.va:
        number(text, "address")
    image = image_of(options)
    registers = registers_from(options, image)
    walked = _walk_stage2 if options.regime == "stage2" else _walk
    answers = list(walked(options, image, registers))
    errors = [
        f"{image.path}: {va:#x}: {str(found).removeprefix(f'{image.path}: ')}"
        for va, found in answers
        if isinstance(found, TtbrError)
    ]
    good = [found for _, found in answers if not isinstance(found, TtbrError)]
    if not good:
        raise UnreadableError(errors[0])
    if options.json:
        import json

        address = "ipa" if options.regime == "stage2" else "va"
        print(json.dumps([_plain(address, va, found) for va, found in answers], indent=2))
    else:
        print("\n\n".join(text for _, _, text in good))
    for error in errors:
        print(f"ttbr walk: {error}", file=sys.stderr)
    return 2 if errors else int(any(fault for fault, _, _ in good))
