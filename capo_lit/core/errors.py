"""One small vocabulary of errors, so that every message answers the same four questions."""

from collections.abc import Iterable


class CapoError(Exception):
    """What came, what was expected, where, and which setting to change.

    Args:
        got: what was found, with its value.
        expected: what would have been right.
        where: the file, row, prompt, field or step it was found at; empty if there is only one place.
        change: the setting (or command) to change; empty if the message itself says it.
    """

    def __init__(self, got: str, expected: str, where: str = "", change: str = "") -> None:
        self.got, self.expected, self.where, self.change = got, expected, where, change
        text = f"got {got}; expected {expected}"
        if where:
            text = f"{where}: {text}"
        if change:
            text = f"{text}. Change: {change}"
        super().__init__(text)

    def __reduce__(self) -> tuple[type["CapoError"], tuple[str, str, str, str]]:
        # Errors cross process borders (verifier workers, data-parallel ranks): rebuild from the parts, not the text.
        return (type(self), (self.got, self.expected, self.where, self.change))


class ConfigError(CapoError):
    """A setting, or a combination of settings, that cannot be run."""


def check_settings(checks: Iterable[tuple[bool, str, str, str]], where: str) -> None:
    """Refuse the first setting that does not hold.

    Args:
        checks: whether it holds, what was got, what was expected, and the setting to change.
        where: whose settings they are.

    Raises:
        ConfigError: for the first check that does not hold.
    """
    for holds, got, expected, setting in checks:
        if not holds:
            raise ConfigError(got, expected, where, setting)


class DataError(CapoError):
    """A file or row of input that cannot be used."""


class BatchError(CapoError):
    """A StepBatch slot read before it was filled, or filled twice."""


class EngineError(CapoError):
    """An engine that cannot generate, or whose weights are not the policy's."""


class JudgeError(CapoError):
    """A judge that cannot be used at all; one failed critique only abstains."""


class VerifierError(CapoError):
    """A verifier whose workers cannot be started; one failed answer is only unknown."""


class UpdateError(CapoError):
    """An optimizer step that must not be taken, because its gradient is not finite."""


def one_line(message: object) -> str:
    """A message, or that of an error, as one line."""
    return " ".join(str(message).split())
