"""SVC and HVC are taken to their vector on the emulated CPUs, and SMC is taken to have returned."""

import pytest

from emulate_tables import needs_qemu, needs_unicorn
from ttbr.emulate import qemu_run, replay, unicorn_run
from ttbr.emulate.run import Job
from ttbr.emulate.scenario_job import scenario_job
from ttbr.switch.prove import prove
from ttbr.switch.scenario import parse_scenario

CODE, HYP = 0x8020_0000, 0x8020_1000
FILE = """
title = "calls"
regime = "EL1&0"
input_bits = 39
[region]
code = {{ va = {code}, access = "rx" }}
hyp = {{ va = {hyp}, access = "rx", regime = "EL2" }}
[table.kernel]
map = ["code"]
[registers]
from = ["kernel"]
TTBR0_EL2 = 0
TCR_EL2 = 0x80803519
SCTLR_EL2 = 0x30c50830
VBAR_EL1 = "code"
VBAR_EL2 = "hyp"
[program]
at = "code"
stop = ["done"]
returns = ["smc"]
text = '''
{text}
'''
[intent]
reach = ["code", "hyp"]
"""
PROGRAMS = {
    # text, exception level of each instruction
    "svc": ("svc #0\ndone: nop\n.org code + 0x200\neret", [1, 1, 1]),
    "hvc": ("hvc #0\ndone: nop\n.org hyp + 0x400\nmov x1, #1\neret", [1, 2, 2, 1]),
    "smc": ("smc #0\nmov x1, #1\ndone: nop", [1, 1, 1]),
}


def job(name: str) -> Job:
    text = FILE.format(code=CODE, hyp=HYP, text=PROGRAMS[name][0])
    found = parse_scenario(text, name)
    assert prove(found.problem).safe
    return scenario_job(found.problem, found.code, found.registers)


@needs_unicorn
@pytest.mark.parametrize("name", PROGRAMS)
def test_on_unicorn(name: str) -> None:
    asked = job(name)
    runs = unicorn_run.run_both(asked)
    for outcome in (runs.warm, runs.cold, replay.replay(asked)):
        assert outcome.death is None
        assert [step.state.el for step in outcome.executed] == PROGRAMS[name][1]


@needs_qemu
@pytest.mark.parametrize("name", PROGRAMS)
def test_on_qemu(name: str) -> None:
    outcome = qemu_run.run(job(name))
    assert outcome.death is None
    assert [step.state.el for step in outcome.executed] == PROGRAMS[name][1]
