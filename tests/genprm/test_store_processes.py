"""The critique store under concurrent writers, forks and kills."""

import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from capo_lit.genprm.store import CritiqueStore
from tests.support.stored import item

# Children of this process: nothing of the store may depend on being opened anew, as a forked run would not.
FORK = multiprocessing.get_context("fork")
WAIT_S = 30


def write_many(path: Path, numbers: range, start: object) -> None:
    start.wait(WAIT_S)
    store = CritiqueStore(path)
    for number in numbers:
        store.put(*item(number))


def test_processes_and_threads_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path, start = tmp_path / "store", FORK.Barrier(4)
    # Each process writes 100 numbers, 50 of which the next one writes too; all of them create the store.
    children = [FORK.Process(target=write_many, args=(path, range(50 * i, 50 * i + 100), start)) for i in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(WAIT_S)
    assert [child.exitcode for child in children] == [0] * 4
    store = CritiqueStore(path)
    threads = [threading.Thread(target=write_many, args=(path, range(250, 300), threading.Barrier(1))) for _ in "ab"]
    threads += [threading.Thread(target=lambda: [store.put(*item(number)) for number in range(300, 350)])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(int(row["reply"]) for row in store.rows()) == list(range(350))


def write_with_a_connection_of_its_own(store: CritiqueStore) -> None:
    inherited = store._connection
    store.put(*item(1))
    if inherited is store._connection:
        raise SystemExit("wrote through a connection of the parent")


def test_a_store_that_was_open_across_a_fork_goes_on_in_both(tmp_path: Path) -> None:
    store = CritiqueStore(tmp_path / "store")
    store.put(*item(0))
    child = FORK.Process(target=write_with_a_connection_of_its_own, args=(store,))
    child.start()
    child.join(WAIT_S)
    assert child.exitcode == 0
    store.put(*item(2))
    assert sorted(int(row["reply"]) for row in store.rows()) == [0, 1, 2]


def write_forever(path: Path, first: int, done: Connection) -> None:
    store = CritiqueStore(path)
    number = first
    while True:
        store.put(*item(number, f"{number} " + "x" * 5000))
        done.send(number)
        number += 1


def acknowledged(pipe: Connection) -> Iterator[int]:
    while pipe.poll(1):
        try:
            yield pipe.recv()
        except EOFError:
            return


def test_what_put_returned_from_survives_kill_9(tmp_path: Path) -> None:
    path, known = tmp_path / "store", set()
    for attempt in range(4):
        receiver, sender = FORK.Pipe(duplex=False)
        child = FORK.Process(target=write_forever, args=(path, 100000 * attempt, sender))
        child.start()
        sender.close()
        # In the middle of its writing, a little later every time.
        for _ in range(5 + 7 * attempt):
            assert receiver.poll(WAIT_S)
            known.add(receiver.recv())
        os.kill(child.pid, signal.SIGKILL)
        child.join(WAIT_S)
        assert child.exitcode == -signal.SIGKILL
        known.update(acknowledged(receiver))
        store = CritiqueStore(path)
        found = {int(reply.split()[0]): reply.split()[1] for reply in (str(row["reply"]) for row in store.rows())}
        # Besides what it had told, at most the one that it was about to tell.
        assert known <= set(found)
        assert len(set(found) - known) <= attempt + 1
        assert all(len(text) == 5000 for text in found.values())
        # The dead process has left no lock behind.
        assert store.put(*item(-1 - attempt, f"{-1 - attempt} " + "x" * 5000)) is True
        known.add(-1 - attempt)
        store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
