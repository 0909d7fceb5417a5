"""Where problems come from: files, Hugging Face datasets, reasoning-gym generators."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from capo_lit.data.rows import Row, read_rows, text_field
from capo_lit.errors import ConfigError, DataError
from capo_lit.verify_answer import last_box

Extraction = Literal["none", "gsm8k", "boxed", "last_number"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem before it is rendered.

    Attributes:
        uid: stable name, unique in its source.
        problem: bare text, as the judge sees it.
        answer: the gold answer; "" if the source has none (enough for SFT, not for RL or validation).
        reference: a full reference solution (for SFT: the response to imitate), if the source has one.
    """

    uid: str
    problem: str
    answer: str
    reference: str | None = None


class PromptSource(ABC):
    """A fixed list of problems."""

    @abstractmethod
    def load(self) -> Sequence[Problem]:
        """All problems, in an order that never changes.

        Raises:
            DataError: if a file, row or field cannot be used.
        """


@dataclass
class Fields:
    """Which fields of a row are used, and how the answer is found in its field.

    Args:
        problem: field of the problem's text.
        answer: field of the gold answer; null for SFT data that has none.
        extraction: "none" takes the answer's field as it is; "gsm8k" what follows the last ####; "boxed" the last
            box; "last_number" the last number.
        reference: field of a full solution; for SFT, of the response to imitate.
        uid: field of a unique name; without it, file name and line number.
    """

    problem: str = "problem"
    answer: str | None = "answer"
    extraction: Extraction = "none"
    reference: str | None = None
    uid: str | None = None


DEFAULT_FIELDS = Fields()


class FileSource(PromptSource):
    """Problems from a jsonl or parquet file.

    Args:
        path: the file; a relative path starts at the working directory.
        fields: which fields are used.
        skip: rows to leave out at the start.
        limit: at most this many rows after those; null takes all.
    """

    def __init__(self, path: str, fields: Fields = DEFAULT_FIELDS, skip: int = 0, limit: int | None = None) -> None:
        _check_slice(skip, limit)
        self.path, self.fields, self.skip, self.limit = Path(path), fields, skip, limit

    def load(self) -> Sequence[Problem]:
        rows = ((f"{self.path}:{number}", f"{self.path.name}:{number}", row) for number, row in read_rows(self.path))
        return _problems(_slice(rows, self.skip, self.limit), self.fields, str(self.path))


class HubSource(PromptSource):
    """Problems from a Hugging Face dataset, by local path or by hub id; code in the dataset is never run.

    Args:
        path: a folder (of data files, or written by save_to_disk), or a hub id.
        name: the dataset's configuration, if it has several.
        split: for example "train" or "test".
        revision: branch, tag or commit on the hub; pin it to repeat a run.
        fields: which fields are used.
        skip: rows to leave out at the start.
        limit: at most this many rows after those; null takes all.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        revision: str | None = None,
        fields: Fields = DEFAULT_FIELDS,
        skip: int = 0,
        limit: int | None = None,
    ) -> None:
        _check_slice(skip, limit)
        self.path, self.name, self.split, self.revision = path, name, split, revision
        self.fields, self.skip, self.limit = fields, skip, limit

    def load(self) -> Sequence[Problem]:
        label = f"{self.path}[{self.split}]"
        rows = ((f"{label} row {i}", f"{label}:{i}", row) for i, row in enumerate(self.rows(), start=1))
        return _problems(_slice(rows, self.skip, self.limit), self.fields, label)

    def rows(self) -> Iterable[Row]:
        """All rows, with all of their fields; raises DataError if there is no such dataset or split."""
        from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError

        label = f"{self.path}[{self.split}]"
        try:
            if any((Path(self.path) / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
                saved = load_from_disk(self.path)
                data = saved[self.split] if isinstance(saved, DatasetDict) else saved
            else:
                data = load_dataset(self.path, self.name, split=self.split, revision=self.revision)
        except (DatasetsError, OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{type(error).__name__}: {reason}", "a dataset with that split", label, "path, name, split or revision"
            ) from error
        if not isinstance(data, Dataset):
            raise DataError(f"a {type(data).__name__}", "rows", label, "split")
        return data  # type: ignore[no-any-return]


class ReasoningGymSource(PromptSource):
    """Problems from a reasoning-gym generator; choose one whose answers are numbers, formulas or single words.

    Args:
        name: the generator, for example "chain_sum".
        size: number of problems.
        seed: of the generator; two sources with different seeds may share problems.
        config: further settings of the generator.
    """

    def __init__(self, name: str, size: int, seed: int = 0, config: dict[str, Any] | None = None) -> None:
        if size < 1:
            raise ConfigError(f"size {size}", "an integer >= 1", "ReasoningGymSource", "size")
        self.name, self.size, self.seed, self.config = name, size, seed, dict(config or {})

    def load(self) -> Sequence[Problem]:
        import reasoning_gym

        where = f"reasoning-gym '{self.name}'"
        try:
            data = reasoning_gym.create_dataset(self.name, size=self.size, seed=self.seed, **self.config)
        except (ValueError, TypeError, AssertionError) as error:
            raise DataError(f"{error}", "a generator and settings that it takes", where, "name or config") from error
        rows = ((f"{where} item {i}", f"{self.name}-{self.seed}-{i}", data[i]) for i in range(self.size))
        return _problems(rows, Fields(problem="question"), where)


def _check_slice(skip: int, limit: int | None) -> None:
    if skip < 0:
        raise ConfigError(f"skip {skip}", "an integer >= 0", change="skip")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}", "an integer >= 1, or null", change="limit")


def _slice(rows: Iterable[tuple[str, str, Row]], skip: int, limit: int | None) -> Iterator[tuple[str, str, Row]]:
    return islice(rows, skip, None if limit is None else skip + limit)


def _problems(rows: Iterable[tuple[str, str, Row]], fields: Fields, label: str) -> list[Problem]:
    """Problems from (place, default uid, row); uids are checked to be unique."""
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for where, uid, row in rows:
        problem = _problem(row, fields, where, uid)
        if problem.uid in places:
            raise DataError(
                f"the uid '{problem.uid}' of {places[problem.uid]} again", "unique uids", where, "fields.uid"
            )
        places[problem.uid] = where
        problems.append(problem)
    if not problems:
        raise DataError("no rows", "at least one", label, "skip, limit or the file")
    return problems


def _problem(row: Row, fields: Fields, where: str, uid: str) -> Problem:
    problem = text_field(row, fields.problem, where, "fields.problem")
    if not problem.strip():
        raise DataError(f"an empty field '{fields.problem}'", "a problem", where, "fields.problem")
    answer = ""
    if fields.answer is not None:
        answer = _extract(text_field(row, fields.answer, where, "fields.answer"), fields, where)
    reference = text_field(row, fields.reference, where, "fields.reference") if fields.reference else None
    if fields.uid:
        uid = text_field(row, fields.uid, where, "fields.uid")
    return Problem(uid, problem, answer, reference)


def _extract(text: str, fields: Fields, where: str) -> str:
    if fields.extraction not in EXTRACTIONS:
        raise ConfigError(
            f"extraction '{fields.extraction}'", f"one of {sorted(EXTRACTIONS)}", "Fields", "fields.extraction"
        )
    answer = EXTRACTIONS[fields.extraction](text)
    if not answer:
        raise DataError(
            f"no answer in field '{fields.answer}' by extraction '{fields.extraction}' ({text[-60:]!r})",
            "an answer in every row",
            where,
            "fields.extraction or fields.answer",
        )
    return answer


_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")


def _after_hashes(text: str) -> str:
    found = _HASHES.findall(text)
    return found[-1].strip().replace(",", "") if found else ""


def _last_number(text: str) -> str:
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else ""


EXTRACTIONS: Mapping[str, Callable[[str], str]] = {
    "none": str.strip,
    "gsm8k": _after_hashes,
    "boxed": lambda text: last_box(text) or "",
    "last_number": _last_number,
}
"""How the gold answer is found in its field, by name."""
