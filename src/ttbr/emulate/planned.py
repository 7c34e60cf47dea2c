"""Jobs for the strategies and the EL1 sequences of a kernel on a board."""

from collections.abc import Iterable

from ttbr.boards.board import Board
from ttbr.build import Arena
from ttbr.emulate.jobs import el1_job, plan_job, text_job
from ttbr.emulate.run import Job
from ttbr.linux.config import KernelConfig
from ttbr.linux.realise import realise, table_base
from ttbr.linux.strategies import plan
from ttbr.switch.planned import el1_sequence, vhe_start

__all__ = ["planned_job", "sequence_job"]

Memory = Board | Iterable[tuple[int, int]]


def planned_job(strategy: str, config: KernelConfig, memory: Memory) -> Job:
    """The EL2 switch of *strategy*; `InvalidError` where it has no tables for this board."""
    if strategy == "vhe":
        return _vhe_job(config, memory)
    chosen = plan(strategy, config, memory)
    return plan_job(realise(chosen, Arena.at(table_base(chosen), config.granule)))


def _vhe_job(config: KernelConfig, memory: Memory) -> Job:
    made, routine, registers, values = vhe_start(config, memory)
    inputs = {register: values[name] for register, name in routine.inputs.items()}
    pages, entry = made.kernel.pages(), config.image.text
    return text_job(f"vhe {config.release}", routine.text, entry, pages, registers | inputs, 2)


def sequence_job(name: str, config: KernelConfig, memory: Memory) -> Job:
    """The EL1 sequence *name* of `ttbr.switch.planned.EL1_SEQUENCES`."""
    made, routine, before, after = el1_sequence(name, config, memory)
    return el1_job(name, made, routine, before, after)
