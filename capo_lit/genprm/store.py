"""The critique store: replies of judges on disk, found by what was asked, so that nothing is asked twice.

A cache that runs may share, of replies as they came. What a run made of them is in its records, and what
`capo critique` made of them in its output; both can be read without it.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_random

from capo_lit.batch.facts import FinishReason
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.engines.base import Engine, Message, Request

SCHEMA_VERSION = 1
_BUSY_S = 60.0  # how long a writer waits for the others; one write takes well below a millisecond
# SQLite does not wait for other processes, which may be creating the same store, when the journal's mode changes.
_LOCKED = retry_if_exception_message(match=".*locked")
_WHILE_LOCKED = Retrying(retry=_LOCKED, stop=stop_after_delay(_BUSY_S), wait=wait_random(0, 0.1), reraise=True)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS prompts (digest TEXT PRIMARY KEY, messages TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS critiques (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, prompt TEXT NOT NULL, nonce TEXT NOT NULL, sampling TEXT NOT NULL,
    seed TEXT NOT NULL, reply TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON critiques BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON critiques BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""
_COLUMNS = "key, judge, prompt, nonce, sampling, seed, reply, finish_reason, prompt_tokens, completion_tokens, seconds"
_MARKS = ", ".join("?" * len(_COLUMNS.split(", ")))
# Attributes of engines that shape every reply: the precision they compute in, fields of a server's requests.
_SHAPING = ("precision", "extra")
# Connections that a forked child inherited: closing one there would disturb the parent's, so they are kept.
_INHERITED: list[sqlite3.Connection] = []


@runtime_checkable
class NamesModel(Protocol):
    """An engine that says which model it runs."""

    model: str


@dataclass(frozen=True, slots=True)
class StoredReply:
    """One reply of a judge, as it was given; it is parsed when it is read.

    Attributes:
        reply: the judge's own turn, verbatim.
        finish_reason: how it ended.
        prompt_tokens: tokens the judge read.
        completion_tokens: tokens the judge wrote.
        seconds: from submission to the reply.
    """

    reply: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StoreKey:
    """What a reply depends on, and so is found by.

    Attributes:
        judge: see `judge_identity`.
        bare: the messages as they read with an empty nonce; they hold template, problem, steps, reference and index
            base.
        sampling: how the reply is drawn.
        seed: of the request; it tells the critiques of one rollout apart.
        nonce: of the messages that are sent. Noted, so that they can be looked at, and no part of the digest.
    """

    judge: str
    bare: Sequence[Message]
    sampling: Sampling
    seed: int
    nonce: str

    @property
    def digest(self) -> str:
        """sha256 of all but the nonce, as hexadecimal digits."""
        bare = [dict(message) for message in self.bare]
        return _digest(_json((self.judge, bare, asdict(self.sampling), self.seed)))


def judge_identity(engine: Engine) -> str:
    """What a judge's replies depend on besides the request: kind of engine, model, and settings that shape every reply.

    A model in a local directory is told apart by names, sizes and times of its files, so that one that was trained
    anew under the same path is another judge. So is one in another precision; a model that is quantised says so in its
    own files, or its name.

    Raises:
        ConfigError: if the engine does not name its model, or its weights follow the policy's.
    """
    kind = type(engine).__name__
    if not isinstance(engine, NamesModel) or not isinstance(engine.model, str):
        raise ConfigError(
            f"{kind}, which does not name its model", "an engine with a model's name", "critique store", "store"
        )
    if engine.version is not None:
        raise ConfigError(
            f"a judge whose weights change (version {engine.version})",
            "a judge that stays the same: replies of older weights are not its own",
            "critique store",
            "store null, or an engine of the judge's own",
        )
    folder = Path(engine.model)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    shaping = {name: vars(engine).get(name) for name in _SHAPING if vars(engine).get(name)}
    return " ".join([kind, engine.model, *(_digest(_json(part))[:16] for part in (stamps, shaping) if part)])


class CritiqueStore:
    """Replies in one SQLite file, added and never changed.

    Any number of processes of one machine may read and write it at the same time. Each reply is a transaction of the
    write-ahead log: one that `put` has returned from survives the death of the process, and a half-written one is
    gone. (synchronous=NORMAL: a power cut may lose the last of them, which are then asked again, and never the file.)
    The file must not lie on a network file system, whose locks SQLite cannot trust.

    Args:
        path: of the file; made with its directories if it is not there.

    Raises:
        DataError: if the file is no critique store, is of another version, or cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = -1
        with self._open():
            pass

    def get(self, key: str) -> StoredReply | None:
        """The reply of that key, or None."""
        query = "SELECT reply, finish_reason, prompt_tokens, completion_tokens, seconds FROM critiques WHERE key = ?"
        with self._open() as connection:
            row = connection.execute(query, (key,)).fetchone()
        return None if row is None else StoredReply(json.loads(row[0]), *row[1:])

    def put(self, key: StoreKey, request: Request, reply: StoredReply) -> bool:
        """Add a reply; the first one of a key stays.

        Args:
            key: of the request.
            request: as it was sent, for whoever looks into the store.
            reply: to it.

        Returns:
            Whether it was added; False if another one is there already.
        """
        messages = _json([dict(message) if isinstance(message, Mapping) else message for message in request.prompt])
        prompt = _digest(messages)
        asked = (key.digest, key.judge, prompt, key.nonce, _json(asdict(key.sampling)), str(key.seed))
        answered = (
            _json(reply.reply),
            reply.finish_reason,
            reply.prompt_tokens,
            reply.completion_tokens,
            reply.seconds,
        )
        with self._open() as connection, connection:
            connection.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (prompt, messages))
            cursor = connection.execute(f"INSERT OR IGNORE INTO critiques VALUES ({_MARKS})", (*asked, *answered))
        return cursor.rowcount == 1

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM critiques").fetchone()[0])

    def rows(self) -> Iterator[dict[str, object]]:
        """Every critique as a dict, to be looked at: the reply, its nonce, and the messages as they were sent."""
        query = f"SELECT {_COLUMNS}, messages FROM critiques JOIN prompts ON digest = prompt ORDER BY key"
        with self._open() as connection:
            found = connection.execute(query).fetchall()
        names = (*_COLUMNS.split(", "), "messages")
        for values in found:
            row = dict(zip(names, values, strict=True))
            decoded = {name: json.loads(row[name]) for name in ("sampling", "seed", "reply", "messages")}
            yield {**row, **decoded}

    def close(self) -> None:
        """Give back the file; it is opened again when it is needed."""
        with self._lock:
            self._leave_parent()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection of this process, one thread at a time."""
        with self._lock:
            try:
                self._leave_parent()
                if self._connection is None:
                    self._connection, self._owner = self._connect(), os.getpid()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                got, expected = f"a store that cannot be used ({error})", "a critique store on a local disk"
                raise DataError(got, expected, str(self.path), "store") from error

    def _leave_parent(self) -> None:
        if self._connection is not None and self._owner != os.getpid():
            _INHERITED.append(self._connection)
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
        try:
            # Before anything is changed: the file may be somebody else's.
            _check_owner(connection, str(self.path))
            _WHILE_LOCKED(connection.execute, "PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            # In one transaction, and harmless if another process has just done so.
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection


def _check_owner(connection: sqlite3.Connection, path: str) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, SCHEMA_VERSION):
        raise DataError(f"a store of version {version}", f"version {SCHEMA_VERSION}", path, "store")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables - {"prompts", "critiques"}:
        raise DataError(f"a database with the tables {sorted(tables)}", "a critique store", path, "store")


def _json(value: object) -> str:
    # ASCII with escapes, which also holds the lone surrogates that a reply may contain.
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
