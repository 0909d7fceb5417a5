"""The parser of `capo fit` and its like: config files are composed where they ask for it, and errors are one line."""

from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from capo_lit.cli.compose import composed_file
from capo_lit.cli.refusals import replaced
from capo_lit.core.errors import one_line

# What the parser says of the alternative to each class, null, and of values that are no single word.
_NOISE = (
    *("Does not validate against", "Subtypes: ", "Errors:", "- Expected a <class 'NoneType'>"),
    *("Given value type", "Given value: {", "Given value: N"),
)


def _load(text: str, path: str = "") -> Any:
    return composed_file(get_loader("yaml")(text), Path(path) if path else None)


# The parser mode; the parser tells a loader with an argument `path` which file the text is from.
set_loader("capo", _load, (yaml.YAMLError,))


class CapoParser(LightningArgumentParser):
    """Raises its errors; those of a config file name the file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"parser_mode": "capo", "exit_on_error": False, **kwargs})

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument; the seed is a number, from which all random numbers derive, and not drawn by `true`."""
        if "--seed_everything" in args:
            kwargs["type"] = int
        return super().add_argument(*args, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a config file.

        Raises:
            ArgumentError: if a key or a value of the file is wrong.
        """
        try:
            parsed = super().parse_path(path, *args, **kwargs)
            self.validate(parsed, skip_required=True)
        except (ArgumentError, TypeError, KeyError) as error:
            raise ArgumentError(None, f"{path}: {brief(error)}") from error
        return parsed


def brief(error: BaseException) -> str:
    """What the parser found wrong, as one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line.removeprefix("- ") for line in lines if line and not line.startswith(_NOISE)]
    text = one_line(" ".join(told))
    return text + replaced(text)
