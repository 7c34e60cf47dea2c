"""What each module offers: a change here is a change of the interface."""

import importlib
import inspect
import pkgutil

import pytest

import ttbr

# Finished packages whose names others may rely on.
PUBLIC = {
    "ttbr.errors": ["InvalidError", "MemoryFault", "TtbrError", "UnreadableError", "UnsupportedError"],
    "ttbr.record": ["record", "replace"],
    "ttbr.arch.bits": ["Field", "Register", "bits", "ones"],
    "ttbr.arch.geometry": [
        "GRANULES", "Granule", "IPA", "PA", "VA", "granule", "level_count", "size_text",
        "start_level",
    ],
    "ttbr.arch.faults": [
        "Fault", "FaultKind", "STATUS", "fault_of_par", "fault_of_status", "status_code",
    ],
    "ttbr.arch.features": ["Features", "PA_BITS", "features_of"],
    "ttbr.arch.descriptors": [
        "BLOCK", "FORMATS", "INVALID", "OA_48", "OA_64K_LPA", "OA_LPA2", "OutputFormat", "PAGE",
        "RESERVED", "TABLE", "decode", "descriptor_type", "fields_of", "output_address",
    ],
    "ttbr.arch.registers": ["REGISTERS", "arm_name", "lookup"],
    "ttbr.arch.params": ["Level", "WalkParams", "walk_params"],
    "ttbr.arch.regime": [
        "EL1", "EL2", "EL20", "EL3", "Regime", "STAGE2", "Translated", "WalkParams",
        "current_regime", "regime_of", "size_errors", "stage2_of", "stage2_start", "walk_params",
    ],
    "ttbr.memory": [
        "Image", "Memory", "RawMemory", "RegisterFile", "Segment", "SegmentMemory", "SparseMemory",
        "open_image", "read_registers",
    ],
    "ttbr.walk": [
        "AT_OPERATIONS", "Access", "EL0_EXECUTE", "EL0_READ", "EL0_WRITE", "EXECUTE", "Hole",
        "Leaf", "Mapping", "READ", "Run", "Step", "TableCount", "Unreadable", "WRITE",
        "address_translate", "combine", "runs", "translate", "translate_stage2",
    ],
    "ttbr.report.explain": ["explain", "explain_stage2"],
    "ttbr.report.fields": [
        "descriptor_text", "plain_descriptor", "plain_register", "register_text",
        "register_warnings",
    ],
    "ttbr.report.listing": ["FILTERS", "Summary", "line", "lines"],
    "ttbr.report.plain": ["plain_fault", "plain_leaf", "plain_run", "plain_walk"],
    "ttbr.report.ptdump": ["ptdump"],
    "ttbr.cli": ["COMMANDS", "main", "parser_of"],
}  # fmt: skip
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(ttbr.__path__, "ttbr.")
    if info.name != "ttbr.__main__"
)


@pytest.mark.parametrize("name", PUBLIC)
def test_pinned(name: str) -> None:
    assert sorted(importlib.import_module(name).__all__) == sorted(PUBLIC[name])


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    for public in names:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), f"{name}.{public}"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_with_public_names_lists_them(name: str) -> None:
    """A function or class without an underscore that a module defines is in its `__all__`."""
    if name.startswith("ttbr.cli."):  # commands: configure and run
        return
    module = importlib.import_module(name)
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
        if inspect.isclass(value) or inspect.isfunction(value)
    }
    if own:
        assert hasattr(module, "__all__")


def test_modules_are_small() -> None:
    for name in MODULES:
        lines = len(inspect.getsource(importlib.import_module(name)).splitlines())
        assert lines <= 600, (name, lines)
