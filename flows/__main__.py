"""`python -m flows`: the `agevlm` command."""

from flows.cli.app import main

main()
