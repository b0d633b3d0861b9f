"""Fuzz the worker's protocol code for as long as you like.

    make fuzz ARGS="--seconds 600 --seed 7"

Prints its seed, its progress and what it finds; each finding is made small and written to a file,
which is tried again by `--case FILE`. Exit code 1 if anything was found.
"""

import argparse
import sys
from pathlib import Path
from random import SystemRandom
from time import monotonic

from tests.fuzz.drive import Found, Worlds
from tests.fuzz.loop import Fuzzer, check, minimise, read, write

SHOWN_S = 10.0
TOLD_MAX = 1500
"""Characters; the file has all."""


def tell(found: Found) -> None:
    case = found.case
    print(f"  {case.kind}, {found.way}: {found.text[:TOLD_MAX]}")
    print(f"    asked {case.asked!r}, end {case.end!r}, world {case.world!r}")
    print(f"    data {repr(case.data)[:TOLD_MAX]}")
    if found.way == "in pieces":
        print(f"    cuts {found.cuts}")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="else a new one, which is printed")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where cases go")
    parser.add_argument("--case", type=Path, nargs="+", help="try these files again, nothing else")
    arguments = parser.parse_args()
    with Worlds() as worlds:
        if arguments.case:
            wrong = 0
            for path in arguments.case:
                found, result = check(worlds, *read(path))
                print(f"{path}: {len(found)} wrong; {result.counted if result is not None else ''}")
                for one in found:
                    tell(one)
                wrong += len(found)
            return 1 if wrong else 0
        seed = SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
        print(f"seed {seed}, {arguments.seconds:g} s", flush=True)
        fuzzer = Fuzzer(seed, worlds)
        began_s = shown_s = monotonic()
        for new in fuzzer.run(arguments.seconds):
            for one in new:
                small = minimise(worlds, one)
                print(f"FOUND: {write(small, arguments.found)}")
                tell(small)
            if monotonic() - shown_s >= SHOWN_S:
                shown_s = monotonic()
                print(
                    f"{shown_s - began_s:5.0f} s  {fuzzer.tried} cases  "
                    f"{len(fuzzer.shapes)} shapes  {sum(fuzzer.sorts.values())} findings",
                    flush=True,
                )
        print(f"seed {seed}: {fuzzer.tried} cases, {len(fuzzer.shapes)} shapes")
        for name, count in sorted(fuzzer.sorts.items()):
            print(f"  {count} times: {name}")
        return 1 if fuzzer.sorts else 0


if __name__ == "__main__":
    sys.exit(main())
