"""`python -m flows`: the `agevlm` command."""

from flows.cli import main

main()
