"""A command is a typed function: its signature is the command line, its docstring the help, a CapoError its end."""

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from capo_lit.core.errors import CapoError

Main = Callable[[Sequence[str]], int]


def command(function: Callable[..., object], prog: str = "", again: str = "") -> Main:
    """The `main` of a command: it takes the arguments after the command's name, and returns the exit status.

    A parameter without a default is positional, any other one an option of its name; a list takes several words, and
    False is switched on. `Annotated[type, {...}]` gives what the parser cannot know, as keywords of `add_argument`.

    Args:
        function: what to run, with the parsed arguments. A parameter `argv` gets these as they were given.
        prog: the command's name; "capo " and the function's by default.
        again: what to say of an interrupted run.
    """
    name = prog or f"capo {function.__name__}"

    def main(argv: Sequence[str]) -> int:
        parser = function_parser(function, name)
        values = vars(parser.parse_args(list(argv)))
        if "argv" in inspect.signature(function).parameters:
            values["argv"] = list(argv)
        return ended(name, lambda: function(**values), again)

    return main


def ended(name: str, run: Callable[[], object], again: str = "") -> int:
    """Run something, and turn how it ends into an exit status.

    Args:
        name: of the command.
        run: the work.
        again: what to say of an interrupted run.

    Returns:
        0; 1 after a CapoError, which is told in one line (and raised under CAPO_DEBUG); 130 if it was interrupted.
    """
    try:
        run()
    except CapoError as error:
        if os.environ.get("CAPO_DEBUG"):
            raise
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted{'; ' if again else ''}{again}\n")
        return 130
    except BrokenPipeError:  # the reader of standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def function_parser(function: Callable[..., object], prog: str) -> argparse.ArgumentParser:
    """The parser that a function's signature and docstring describe."""
    description, told = read_docstring(function)
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add_parameters(parser, function, told)
    return parser


def add_parameters(parser: argparse.ArgumentParser, function: Callable[..., object], told: Mapping[str, str]) -> None:
    """Add the parameters of a function to a parser."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "argv":
            continue
        options = {**_options(hints[name], parameter.default), "help": told[name].replace("%", "%%")}
        more = get_args(hints[name])[1] if get_origin(hints[name]) is Annotated else {}
        if parameter.default is inspect.Parameter.empty:
            parser.add_argument(name, **{**options, **more})
            continue
        if not (parameter.default is None or parameter.default is False or parameter.default == ()):
            options["help"] += f" (default: {parameter.default})"
        parser.add_argument(f"--{name}", **{**options, "default": parameter.default, **more})


def _options(hint: Any, default: Any) -> dict[str, Any]:
    """What a type says of its argument."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if hint is bool and default is False:
        return {"action": "store_true"}
    if get_origin(hint) is list:
        return {**_options(get_args(hint)[0], None), "nargs": "+"}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    return {"type": hint} if hint in (int, float, Path) else {}


def read_docstring(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """What a docstring in Google style says of a function, and of each of its parameters."""
    about, _, rest = (inspect.getdoc(function) or "").partition("\n\nArgs:\n")
    told: dict[str, str] = {}
    for line in rest.split("\n\n")[0].splitlines():
        if line.startswith("    ") and line[4] != " ":
            name, _, words = line.strip().partition(": ")
            told[name] = words
        elif line.strip():
            told[name] += f" {line.strip()}"
    return " ".join(about.split()), told
