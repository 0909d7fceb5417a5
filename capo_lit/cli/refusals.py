"""What Lightning or the disk refuses, as one error that names the setting of ours it is about."""

import errno
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from capo_lit.core.errors import CapoError, ConfigError, one_line

_TRAINER = {name: item.default for name, item in inspect.signature(Trainer.__init__).parameters.items()}
# Words in Lightning's messages for a setting that has another name.
_ALIASES = {"duration": "max_time", "gpus": "devices", "num_processes": "devices", "ckpt_path": ""}
_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENOSPC)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Settings that there were once, by class or block, and what takes their place.
_GONE = {
    "ArithmeticSource.max_ops": "operations",
    "ArithmeticSource.min_ops": "operations",
    "ArithmeticStepVerifier.kinds": "the class capo_lit.arithmetic.judge.BlindToCarries",
    "GenORM.max_unknown_frac": "critique.max_abstain_frac",
    "HFEngine.max_model_len": "the model's own limit",
    "HubSource.limit": 'a slice of the split, "train[:100]"',
    "LabelledFile.size": "a shorter file",
    "PlantedArithmeticErrors.size": "the size of its problems",
    "PlantedErrors.size": "the limit or size of its problems",
    "ReasoningGymSource.seed": "config: {seed: ...}",
    "SFTDataModule.batch_size": "prompts_per_step",
    "best.mode": "nothing: the metric's definition says it",
    "lm_eval.apply_chat_template": "data.template.style",
    "lm_eval.task_dir": "the paths of the files in lm_eval.tasks",
    "rollout.eval_sampling": "capo validate --rollout.sampling",
}


@contextmanager
def in_our_words(settings: Mapping[str, Any], building: bool = False) -> Iterator[None]:
    """Within it, an error of Lightning or the disk that a setting is the cause of is raised as a ConfigError.

    Args:
        settings: leaves of the config by dotted name, as `leaves` gives them.
        building: the Trainer is being built, so that any error is about its settings.

    Raises:
        ConfigError: in place of such an error, which is its cause.
    """
    try:
        yield
    except CapoError:
        raise
    except Exception as error:
        told = refusal(error, settings, building)
        if told is None:
            raise
        raise told from error


def refusal(error: BaseException, settings: Mapping[str, Any], building: bool = False) -> ConfigError | None:
    """What an error says about a setting, or None if it is about none; arguments as for `in_our_words`."""
    chain = list(_chain(error))
    if any(isinstance(link, CapoError) for link in chain):
        return None
    for link in chain:
        if isinstance(link, OSError) and (told := _of_disk(link, settings)):
            return told
    message = one_line(error)
    if message.startswith("Error(s) in loading state_dict"):
        return ConfigError(
            f"a checkpoint of another model ({message[:300]})", "one of this policy and module", change="--ckpt_path"
        )
    named = _named(message, settings, building)
    if not building and not _raised_by_lightning(error):
        return None
    if not named and not building and not isinstance(error, MisconfigurationException):
        return None
    return _refused_by_lightning(message or type(error).__name__, named, settings)


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists by dotted name: trainer.max_steps, trainer.callbacks.0.class_path."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for part, item in items for key, leaf in leaves(item, f"{name}.{part}" if name else part).items()}


def replaced(message: str) -> str:
    """What takes the place of a setting that a parser's message does not know, as words to add to it."""
    owners = re.findall(r"class_path '(?:\w+\.)*(\w+)'|Group '(\w+)'|--(\w+)", message)
    name = re.search(r"[Oo]ption '(\w+)'|--\w+\.(\w+)", message)
    owner = next((part for part in reversed(owners[-1]) if part), "") if owners else ""
    found = _GONE.get(f"{owner}.{name[1] or name[2]}") if name else None
    return f" (gone; in its place: {found})" if found else ""


def _refused_by_lightning(message: str, named: list[str], settings: Mapping[str, Any]) -> ConfigError:
    got = ", ".join(f"{name} {settings.get(name)!r}" for name in named) or "a setting"
    change = " or ".join(f"--{name}" for name in named) or "the setting that it names"
    return ConfigError(got, f"what Lightning takes; it says: {message.rstrip('.!')}", change=change)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _raised_by_lightning(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("lightning.")


def _named(message: str, settings: Mapping[str, Any], building: bool) -> list[str]:
    """The settings that a message of Lightning is about: by name if they were set, else by value, else by name."""
    words = {_ALIASES.get(word, word) for word in re.findall(r"[A-Za-z_]\w*", message)}
    names = [name for name in _TRAINER if name in words and name != "self"]
    chosen = {name: value for name, value in settings.items() if _is_set(name, value)}
    spelt = [f"trainer.{name}" for name in names if f"{name}=" in message and f"trainer.{name}" in chosen]
    by_name = [f"trainer.{name}" for name in names if f"trainer.{name}" in chosen]
    by_value = [name for name, value in chosen.items() if _tells(value) and _mentions(message, value)]
    underscored = [f"trainer.{name}" for name in names if "_" in name]
    everything = [name for name in chosen if name.startswith("trainer.") and name.count(".") == 1]
    both = [name for name in by_name if name in by_value]
    return spelt or both or by_name or by_value or underscored or (everything if building else [])


def _is_set(name: str, value: Any) -> bool:
    """Whether a leaf is not what the Trainer takes by itself."""
    if value is None or not name.startswith("trainer."):
        return value is not None
    key = name.removeprefix("trainer.")
    return key not in _TRAINER or _TRAINER[key] != value


def _tells(value: Any) -> bool:
    """Whether a value is long enough that it does not stand in a message by accident."""
    return not isinstance(value, bool) and len(str(value)) >= 3


def _mentions(message: str, value: Any) -> bool:
    return re.search(rf"(?<![\w/]){re.escape(str(value))}(?![\w/])", message, re.IGNORECASE) is not None


def _of_disk(error: OSError, settings: Mapping[str, Any]) -> ConfigError | None:
    """The setting whose path, or the nearest folder above it, the disk refused."""
    if error.errno not in (*_DISK, *_FULL):
        return None
    reason = error.strerror or str(error)
    if error.filename is None:
        if error.errno not in _FULL:
            return None
        return ConfigError(f"{reason}", "room for the run", change="--trainer.default_root_dir (another disk)")
    path = Path(str(error.filename)).absolute()
    found = [
        (len(str(folder)), name)
        for name, value in settings.items()
        if isinstance(value, str) and value and (folder := Path(value).absolute()) in (path, *path.parents)
    ]
    if not found:
        return None
    name = max(found)[1]
    return ConfigError(
        f"{path}: {reason}", "a file or folder that can be read and written", f"--{name}", f"--{name} {settings[name]}"
    )
