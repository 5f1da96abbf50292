"""`python -m tests.bench NAME [options]`: a benchmark is a module beside this one with `main(arguments) -> int`."""

import importlib
import sys
from pathlib import Path

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m tests.bench NAME [options]; NAME is one of: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    benchmark = importlib.import_module(f"tests.bench.{sys.argv[1]}")
    return int(benchmark.main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
