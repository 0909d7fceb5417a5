"""Where the records lie that the notebooks read."""

from pathlib import Path

DATA = Path(__file__).parents[2] / "notebooks" / "data"
