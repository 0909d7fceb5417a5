"""Composes config files with Hydra: `GROUP=NAME` and `KEY=VALUE` words, and files that have a `defaults` list.

Hydra only merges; what a key means, and whether its value is right, the Lightning CLI says.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo_lit.core.errors import ConfigError, one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

# A link to the repository's configs/, of which an installed package has a copy.
CONFIGS = Path(os.environ.get("CAPO_CONFIGS", Path(__file__).parents[1] / "configs")).resolve()
# Keys of configs/config.yaml that are not settings of `capo fit`.
_OF_SWEEPS = ("seed", "objective")
# Settings of the commands themselves, which no file of configs/ sets.
_OF_COMMANDS = ("ckpt_path",)
# Hydra's own lists, calls, interpolations and quotes are left as they are.
_PLAIN_WITH_EQUALS = re.compile(r"""[^=,'"()\[\]{}\\]*=[^,'"()\[\]{}\\]*""")
_BAD_CHARACTER = "mismatched input"
_QUOTING = """KEY=VALUE; a value with = , ( ) [ ] { or } in it is quoted twice: 'KEY="VALUE"'; or --KEY VALUE"""


def compose(words: Sequence[str] = (), name: str = "config") -> dict[str, Any]:
    """Compose a config, as `capo fit WORDS...` does; `capo_lit.cli.trainer.build` takes the result.

    Args:
        words: GROUP=NAME and KEY=VALUE, in Hydra's grammar, such as experiment=capo_majority or seed=1.
        name: the file to start from, relative to configs/ and without .yaml.

    Returns:
        The config's keys and values, without interpolations.

    Raises:
        ConfigError: if a group, name, key or value cannot be composed.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not (CONFIGS / f"{name}.yaml").is_file():
        raise ConfigError(f"no {name}.yaml", "the configs of the repository", str(CONFIGS), "CAPO_CONFIGS")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return settings(hydra_compose(name, overrides=[_added(quoted(word)) for word in words]))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        # Where Hydra looked is no news: there is one folder.
        told = one_line(str(error).split("Config search path:")[0])
        expected = _QUOTING if _BAD_CHARACTER in told else "groups, names and keys of configs/"
        raise ConfigError(told, expected, " ".join(words) or f"{name}.yaml") from error


def _added(word: str) -> str:
    """A word that sets what no config holds, as Hydra takes it."""
    return f"+{word}" if word.partition("=")[0] in _OF_COMMANDS else word


def quoted(word: str) -> str:
    """A word KEY=VALUE as Hydra takes it: a plain value with "=" in it, such as a checkpoint's path, is quoted."""
    key, _, value = word.partition("=")
    return f"{key}='{value}'" if _PLAIN_WITH_EQUALS.fullmatch(value) else word


def settings(config: "DictConfig") -> dict[str, Any]:
    """The settings of `capo fit` in a config that Hydra composed."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {key: value for key, value in values.items() if key not in _OF_SWEEPS}


def composed_file(data: Any, file: Path | None) -> Any:
    """What a config file means: itself, or what Hydra composes if it is an experiment or has a `defaults` list.

    Args:
        data: the file's parsed content.
        file: its path; None for text that is in no file.

    Raises:
        ConfigError: if a file that must be composed is not in configs/, or cannot be composed.
    """
    file = file and file.resolve()
    experiment = file is not None and file.parent == CONFIGS / "experiment"
    if not isinstance(data, dict) or not ("defaults" in data or experiment):
        return data
    if file is None or not file.is_relative_to(CONFIGS):
        raise ConfigError(
            "a `defaults` list", "one only in files under configs/", str(file or "a config"), "CAPO_CONFIGS"
        )
    if experiment:
        return compose([f"experiment={file.stem}"])
    return compose(name=file.relative_to(CONFIGS).with_suffix("").as_posix())
