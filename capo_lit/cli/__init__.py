"""The commands: `capo` (commands), `capo-sweep` (sweep), and what they are made of."""

from capo_lit.cli.commands import main

__all__ = ["main"]
