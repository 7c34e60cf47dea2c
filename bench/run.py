"""Run every benchmark: one line a number with its goal; exit status 1 when one is missed.

``bench/run.py [NAME...]`` runs only those (``read`` is bench_read.py).
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    sys.path.insert(0, str(HERE))
    missed = 0
    for path in sorted(HERE.glob("bench_*.py")):
        if names and path.stem.removeprefix("bench_") not in names:
            continue
        for goal in importlib.import_module(path.stem).goals():
            mark = "ok  " if goal.met else "MISS"
            missed += not goal.met
            limit = f"(goal {goal.limit:g} {goal.unit})"
            print(f"{mark} {goal.name:60} {goal.measured:9.3g} {goal.unit:3} {limit}", flush=True)
    print(f"{missed} goals missed" if missed else "all goals met")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
