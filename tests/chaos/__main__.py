"""`python -m tests.chaos NAME [options]`: seeded kills; a module beside this one with `main(arguments) -> int`."""

import importlib
import sys

NAMES = ("masks", "training")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m tests.chaos NAME [options]; NAME is one of: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"tests.chaos.{sys.argv[1]}").main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
