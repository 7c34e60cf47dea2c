"""Regions to tables: estimate, build, edit, write out; and the registers that go with them.

::

    params = table_params(EL1, "4K", 48, upper=True)
    tables = build(regions, params, base=0x8010_0000)
    translate(tables.memory(), regime_of(tables.registers, EL1), va)
"""

from ttbr.build.arena import Arena
from ttbr.build.attributes import (
    DEVICE,
    HYP_DATA,
    HYP_DEVICE,
    HYP_RODATA,
    HYP_TEXT,
    IDMAP,
    KERNEL_DATA,
    KERNEL_RODATA,
    KERNEL_TEXT,
    STAGE2_DEVICE,
    STAGE2_RAM,
    Attributes,
    attributes_from,
    decode,
    describe,
    encode,
)
from ttbr.build.builder import Layout, build, estimate, layout
from ttbr.build.edit import Editor
from ttbr.build.elf import write_elf
from ttbr.build.mair import Mair
from ttbr.build.params import (
    features_needed,
    features_of_params,
    regime_name,
    registers_of,
    table_params,
)
from ttbr.build.plan import Estimate
from ttbr.build.raw import RawTables
from ttbr.build.steps import Barrier, Invalidate, Step, Write, WriteTable
from ttbr.build.tables import Root, Tables, TableSet
from ttbr.build.writers import assembly, c_header, rust_source, write_binary

__all__ = [
    "DEVICE",
    "HYP_DATA",
    "HYP_DEVICE",
    "HYP_RODATA",
    "HYP_TEXT",
    "IDMAP",
    "KERNEL_DATA",
    "KERNEL_RODATA",
    "KERNEL_TEXT",
    "STAGE2_DEVICE",
    "STAGE2_RAM",
    "Arena",
    "Attributes",
    "Barrier",
    "Editor",
    "Estimate",
    "Invalidate",
    "Layout",
    "Mair",
    "RawTables",
    "Root",
    "Step",
    "TableSet",
    "Tables",
    "Write",
    "WriteTable",
    "assembly",
    "attributes_from",
    "build",
    "c_header",
    "decode",
    "describe",
    "encode",
    "estimate",
    "features_needed",
    "features_of_params",
    "layout",
    "regime_name",
    "registers_of",
    "rust_source",
    "table_params",
    "write_binary",
    "write_elf",
]
