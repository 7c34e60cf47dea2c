"""One measured number against its goal, and how to time things fairly."""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Goal", "best", "process_time"]


@dataclass(frozen=True)
class Goal:
    """`measured` should be at most `limit`, both in `unit`."""

    name: str
    measured: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return self.measured <= self.limit


def best(work: Callable[[], object], repeat: int = 5) -> float:
    """Seconds of the fastest of *repeat* runs."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def process_time(commands: Sequence[Sequence[str]], repeat: int = 15) -> list[float]:
    """CPU seconds of each command as a whole process, best of *repeat* interleaved rounds.

    Byte code is cached, as an installation has it.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    results = [float("inf")] * len(commands)
    for _ in range(repeat + 1):
        for index, command in enumerate(commands):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, capture_output=True, env=environment, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            results[index] = min(results[index], used)
    return results
