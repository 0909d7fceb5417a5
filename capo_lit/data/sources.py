"""Where problems come from: files, Hugging Face datasets, reasoning-gym generators."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.problem import Fields, Problem, read_problem
from capo_lit.data.rows import Row, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Fields", "FileSource", "HubSource", "Problem", "PromptSource", "ReasoningGymSource"]


class PromptSource(ABC):
    """A fixed list of problems.

    Attributes:
        right_references: whether a reference solution, where a problem has one, may be taken for right.
    """

    right_references: bool = True

    @abstractmethod
    def load(self) -> Sequence[Problem]:
        """All problems, in an order that never changes.

        Raises:
            DataError: if a file, row or field cannot be used.
        """


DEFAULT_FIELDS = Fields()


class FileSource(PromptSource):
    """Problems from a file: .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz) or .parquet.

    Args:
        path: the file; a relative path starts at the working directory.
        fields: which fields are used.
        limit: at most this many rows; null takes all.
    """

    def __init__(self, path: str, fields: Fields = DEFAULT_FIELDS, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit {limit}", "an integer >= 1, or null", "FileSource", "limit")
        self.path, self.fields, self.limit = Path(path), fields, limit

    def load(self) -> Sequence[Problem]:
        rows = ((f"{self.path}:{number}", f"{self.path.name}:{number}", row) for number, row in read_rows(self.path))
        return _problems(islice(rows, self.limit), self.fields, str(self.path))


class HubSource(PromptSource):
    """Problems from a Hugging Face dataset, by local path or by hub id; code in the dataset is never run.

    Args:
        path: a folder (of data files, or written by save_to_disk), or a hub id.
        name: the dataset's configuration, if it has several.
        split: for example "train" or "test", or a slice of one, "train[:100]".
        revision: branch, tag or commit on the hub; pin it to repeat a run.
        fields: which fields are used.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        revision: str | None = None,
        fields: Fields = DEFAULT_FIELDS,
    ) -> None:
        self.path, self.name, self.split, self.revision, self.fields = path, name, split, revision, fields

    def load(self) -> Sequence[Problem]:
        label = f"{self.path}[{self.split}]"
        rows = ((f"{label} row {i}", f"{label}:{i}", row) for i, row in enumerate(self.rows(), start=1))
        return _problems(rows, self.fields, label)

    def rows(self) -> Iterable[Row]:
        """All rows, with all of their fields; raises DataError if there is no such dataset or split."""
        from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError

        label = f"{self.path}[{self.split}]"
        try:
            if any((Path(self.path) / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
                saved = load_from_disk(self.path)
                data = _slice(
                    saved if isinstance(saved, DatasetDict) else {self.split.split("[")[0]: saved}, self.split
                )
            else:
                data = load_dataset(self.path, self.name, split=self.split, revision=self.revision)
        except (DatasetsError, OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{type(error).__name__}: {reason}", "a dataset with that split", label, "path, name, split or revision"
            ) from error
        if not isinstance(data, Dataset):
            raise DataError(f"a {type(data).__name__}", "rows", label, "split")
        return data.with_format(None)  # type: ignore[no-any-return]


class ReasoningGymSource(PromptSource):
    """Problems from a reasoning-gym generator; choose one whose answers are numbers, formulas or single words.

    Args:
        name: the generator, for example "chain_sum".
        size: number of problems.
        config: settings of the generator, its seed (0 by default) among them; two sources with different seeds may
            share problems.
    """

    def __init__(self, name: str, size: int, config: dict[str, Any] | None = None) -> None:
        if size < 1:
            raise ConfigError(f"size {size}", "an integer >= 1", "ReasoningGymSource", "size")
        self.name, self.size, self.config = name, size, {"seed": 0, **(config or {})}

    def load(self) -> Sequence[Problem]:
        import reasoning_gym

        where = f"reasoning-gym '{self.name}'"
        try:
            data = reasoning_gym.create_dataset(self.name, size=self.size, **self.config)
        except (ValueError, TypeError, AssertionError) as error:
            raise DataError(f"{error}", "a generator and settings that it takes", where, "name or config") from error
        rows = ((f"{where} item {i}", f"{self.name}-{self.config['seed']}-{i}", data[i]) for i in range(self.size))
        return _problems(rows, Fields(problem="question"), where)


def _slice(splits: "Mapping[str, Dataset]", words: str) -> "Dataset":
    """The rows of a saved dataset that a split names, as the hub's reader takes it: train, test[:100], train[10%:]."""
    from datasets import ReadInstruction, concatenate_datasets

    parts = ReadInstruction.from_spec(words).to_absolute({name: len(rows) for name, rows in splits.items()})
    return concatenate_datasets([splits[part.splitname].select(range(part.from_, part.to)) for part in parts])


def _problems(rows: Iterable[tuple[str, str, Row]], fields: Fields, label: str) -> list[Problem]:
    """Problems from (place, default uid, row); uids are checked to be unique."""
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for where, uid, row in rows:
        problem = read_problem(row, fields, where, uid)
        if problem.uid in places:
            raise DataError(
                f"the uid '{problem.uid}' of {places[problem.uid]} again", "unique uids", where, "fields.uid"
            )
        places[problem.uid] = where
        problems.append(problem)
    if not problems:
        raise DataError("no rows", "at least one", label, "the file")
    return problems
