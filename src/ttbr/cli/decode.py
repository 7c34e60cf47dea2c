"""Decode a system register (tcr_el2 0x...) or a descriptor (desc 0x... --level 2 --granule 4K)."""

from ttbr.arch.descriptors import decode
from ttbr.arch.geometry import GRANULES, start_level
from ttbr.arch.regime import walk_params
from ttbr.arch.registers import REGISTERS, lookup
from ttbr.cli.source import number
from ttbr.errors import InvalidError
from ttbr.report.fields import (
    descriptor_text,
    plain_descriptor,
    plain_register,
    register_text,
    register_warnings,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: "ArgumentParser") -> None:
    """The arguments of ``ttbr decode``."""
    parser.add_argument("name", metavar="NAME", help="a register, or `desc`")
    parser.add_argument("value", metavar="VALUE", help="its value")
    parser.add_argument("--e2h", action="store_true", help="TCR_EL2 as with HCR_EL2.E2H=1")
    parser.add_argument("--level", type=int, choices=range(-1, 4), help="desc: the lookup level")
    parser.add_argument("--granule", choices=GRANULES, help="desc: the granule")
    parser.add_argument("--stage", type=int, choices=(1, 2), help="desc: the stage (default 1)")
    parser.add_argument("--ds", action="store_true", help="desc: 52-bit format (TCR.DS=1)")
    parser.add_argument("--lpa", action="store_true", help="desc: 64K with FEAT_LPA")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _refuse(options: "Namespace", names: tuple[str, ...], what: str) -> None:
    """Options that belong to another word must not be ignored in silence."""
    for name in names:
        if getattr(options, name) not in (None, False):
            raise InvalidError(f"--{name} is of {what}")


def _descriptor(options: "Namespace") -> int:
    _refuse(options, ("e2h",), "tcr_el2")
    if options.level is None or options.granule is None:
        raise InvalidError("desc needs --level and --granule")
    g = GRANULES[options.granule]
    if options.ds and g.shift == 16:
        raise InvalidError("--ds: the 64K granule has no DS format; its 52-bit form is --lpa")
    if options.lpa and g.shift != 16:
        raise InvalidError("--lpa is of the 64K granule; 4K and 16K have --ds")
    form = walk_params("desc", g, 48, 0, ds=options.ds, lpa=options.lpa).form
    least = start_level(g, form.address_bits)
    if options.level < least:
        hint = " (-1 with --ds)" if g.shift == 12 and not options.ds else ""
        raise InvalidError(
            f"--level {options.level}: the {g.name} granule has levels {least} to 3{hint}"
        )
    value = number(options.value, "descriptor")
    decoded = decode(value, options.level, g, form, options.stage or 1)
    if options.json:
        import json

        print(json.dumps(plain_descriptor(value, decoded), indent=2))
    else:
        print(descriptor_text(value, decoded, options.level, g))
    return int(decoded[0] in ("invalid", "reserved"))


def run(options: "Namespace") -> int:
    """Run ``ttbr decode``; the exit status."""
    if options.name == "desc":
        return _descriptor(options)
    _refuse(options, ("level", "granule", "stage", "ds", "lpa"), "desc")
    value = number(options.value, lookup(options.name).name)
    register = lookup(options.name, value)
    if options.e2h:
        if register.name != "TCR_EL2":
            raise InvalidError("--e2h is of tcr_el2")
        register = REGISTERS["TCR_EL2_E2H"]
    if options.json:
        import json

        print(json.dumps(plain_register(register, value), indent=2))
    else:
        print(register_text(register, value))
    return int(bool(register_warnings(register, value)))
