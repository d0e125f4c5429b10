"""`python -m tests.fuzz picture --seconds 60`: sends anything to one target; what is new stays in its seeds.

Needs atheris, `pip install '.[fuzz]'`, which has wheels for CPython 3.11 on x86-64.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["services", "PIL", "json"]):
    from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"
LARGEST_BYTES = 4096  # of what is sent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--found", type=Path, help="a folder for what reaches new code (default: none)")
    options = parser.parse_args()
    if options.found:
        options.found.mkdir(parents=True, exist_ok=True)
    folders = [*([options.found] if options.found else []), SEEDS / options.target]
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={options.seconds}", f"-max_len={LARGEST_BYTES}", "-timeout=5"]
        + [str(folder) for folder in folders],
        TARGETS[options.target],
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
