"""The real parser of `capo fit`, which builds and runs nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from capo_lit.cli.plan import ParseOnly
from capo_lit.cli.trainer import build

REPO = Path(__file__).resolve().parents[2]


def fit_parser() -> Callable[[Sequence[str]], Namespace]:
    """What `capo fit ARGS` makes of its arguments; made once, since that is slow."""
    cli = build(["fit", "--config", str(REPO / "configs" / "quickstart.yaml")], cli=ParseOnly)
    return lambda args: cli.parser.parse_args(["fit", *args]).fit


def fit_actions() -> list[Any]:
    """The options of `capo fit`, as argparse's actions."""
    config = str(REPO / "configs" / "quickstart.yaml")
    cli = build(["fit", "--config", config], cli=ParseOnly)
    return list(cli._subcommand_parsers["fit"]._actions)


def flat(config: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a config by dotted name, without the paths of the config files themselves."""
    values = config.as_dict() if isinstance(config, Namespace) else config
    if not isinstance(values, dict):
        return {name: values}
    return {
        key: leaf
        for part, value in values.items()
        if part != "config"
        for key, leaf in flat(value, f"{name}.{part}").items()
    }
