"""The commands of `agevlm`, one group a module. Each imports what is slow inside its functions."""
