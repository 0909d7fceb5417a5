"""The critique store: found by what was asked, never changed, and nothing asked twice."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.engines.base import Request
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.render import render_messages
from capo_lit.genprm.store import CritiqueStore, StoredReply, StoreKey, judge_identity
from tests.support.builders import tiny_llama
from tests.support.judging import SEED, content, judged, rollout
from tests.support.scripted_engine import NEVER, Reply, Scripted, ScriptedEngine
from tests.support.stored import item


class Named(ScriptedEngine):
    """A scripted engine that says which model it is."""

    def __init__(self, script: Callable[[Request], Scripted], model: str = "scripted") -> None:
        super().__init__(script)
        self.model = model


def by_seed(request: Request) -> str:
    return f"seed {request.seed}.\n\\boxed{{{request.seed % 3}}}"


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "critiques.sqlite"
    first, again = Named(by_seed), Named(by_seed)
    rollouts = [rollout(row) for row in range(3)]
    settings = {"k": 4, "early_stop": False, "store": path}
    asked = judged(first, rollouts, **settings)
    stored = judged(again, rollouts, **settings)
    assert (len(first.requests), len(again.requests), len(CritiqueStore(path))) == (12, 0, 12)
    for one, other in zip(asked, stored, strict=True):
        assert one.verdict == other.verdict
        assert [c.cached for c in one.critiques] == [False] * 4
        assert [c.cached for c in other.critiques] == [True] * 4
        for fresh, cached in zip(one.critiques, other.critiques, strict=True):
            assert (fresh.reply, fresh.wrong, fresh.cause) == (cached.reply, cached.wrong, cached.cause)
            # "seed <n>." and "\boxed{<m>}" are three words and an end token.
            assert (cached.prompt_tokens, cached.completion_tokens, cached.seconds) == (7, 4, 0.5)


def test_a_resumed_run_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    judged(Named(by_seed), [rollout(0), rollout(1)], k=2, early_stop=False, store=path)
    engine = Named(by_seed)
    judged(engine, [rollout(row) for row in range(4)], k=3, early_stop=False, store=path)
    # Rollouts 0 and 1 lack their third critique; 2 and 3 lack all.
    assert sorted(request.request_id for request in engine.requests) == sorted(
        [f"critique-{SEED}-{row}-2" for row in (0, 1)]
        + [f"critique-{SEED}-{row}-{i}" for row in (2, 3) for i in range(3)]
    )


def test_identical_requests_of_one_step_are_asked_once(tmp_path: Path) -> None:
    engine = Named(lambda request: Reply(by_seed(request), steps=3))
    # The same prompt, sample and text in two rows; a third row with another sample.
    twin = rollout(0)
    rows = [twin, type(twin)(1, 1, 0, twin.prompt, twin.completion, 1.0), rollout(2, sample=1)]
    items = judged(engine, rows, k=3, early_stop=False, store=tmp_path / "store")
    assert len(engine.requests) == 6
    assert [[c.cached for c in one.critiques] for one in items] == [[False] * 3, [True] * 3, [False] * 3]
    assert items[0].verdict == items[1].verdict
    # Without a store nothing is shared.
    plain = Named(by_seed)
    judged(plain, rows, k=3, early_stop=False)
    assert len(plain.requests) == 9


def test_a_failed_or_aborted_critique_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    replies = {0: RuntimeError("no memory"), 1: NEVER, 2: "no verdict"}

    def script(request: Request) -> Scripted:
        return replies[int(request.request_id.rsplit("-", 1)[1])]

    judged(Named(script), [rollout()], k=3, deadline_s=0.05, store=path)
    # A reply that nobody can read is a reply: it is kept, and the better parser of a later version may read it.
    assert [row["reply"] for row in CritiqueStore(path).rows()] == ["no verdict"]
    engine = Named(by_seed)
    (again,) = judged(engine, [rollout()], k=3, early_stop=False, store=path)
    assert [request.request_id[-1] for request in engine.requests] == ["0", "1"]
    assert [c.cause for c in again.critiques] == ["", "", "parse"]


def test_the_key_is_what_a_reply_depends_on_and_not_the_nonce() -> None:
    def key(**changes: object) -> str:
        arguments = {"problem": "p", "steps": ["a", "b"], "reference": None, "template": None, "nonce": ""}
        others = {"judge": "j", "sampling": Sampling(), "seed": 1, "nonce": "abc"}
        arguments.update({name: value for name, value in changes.items() if name in arguments and name != "nonce"})
        others.update({name: value for name, value in changes.items() if name in others})
        return StoreKey(bare=render_messages(**arguments), **others).digest

    base = key()
    assert key(nonce="other") == base
    changed = [
        key(problem="q"),
        key(steps=["a", "c"]),
        key(steps=["ab"]),
        key(reference="a\n\nb"),
        key(judge="k"),
        key(sampling=Sampling(temperature=0.5)),
        key(sampling=Sampling(max_tokens=9)),
        key(seed=2),
    ]
    assert len({base, *changed}) == len(changed) + 1
    assert len(base) == 64


def test_another_template_index_base_or_judge_is_asked_anew(tmp_path: Path) -> None:
    zero, one = tmp_path / "zero.txt", tmp_path / "one.txt"
    zero.write_text("{problem}\n{steps}")
    one.write_text("index_base: 1\n{problem}\n{steps}")
    asked = []
    for changes in ({}, {"template": zero}, {"template": one}, {"sampling": Sampling(temperature=0.3)}, {}):
        engine = Named(by_seed)
        judged(engine, [rollout()], k=2, early_stop=False, store=tmp_path / "store", **changes)
        asked.append(len(engine.requests))
    other = Named(by_seed, model="another")
    judged(other, [rollout()], k=2, early_stop=False, store=tmp_path / "store")
    again = Named(by_seed)
    judged(again, [rollout()], seed=SEED + 1, k=2, early_stop=False, store=tmp_path / "store")
    assert (asked, len(other.requests), len(again.requests)) == ([2, 2, 2, 2, 0], 2, 2)


def test_the_store_shows_the_prompt_that_was_sent(tmp_path: Path) -> None:
    engine = Named(by_seed)
    judged(engine, [rollout()], k=1, store=tmp_path / "store")
    (row,) = CritiqueStore(tmp_path / "store").rows()
    (request,) = engine.requests
    assert row["messages"] == [dict(message) for message in request.prompt]
    assert f" key={row['nonce']}>" in content(request)
    assert (row["reply"], row["seed"], row["judge"]) == (by_seed(request), request.seed, "Named scripted")
    assert row["sampling"] == {"temperature": 0.8, "top_p": 1.0, "top_k": 0, "max_tokens": 2048}


def test_nothing_that_was_stored_can_be_changed(tmp_path: Path) -> None:
    store = CritiqueStore(tmp_path / "store")
    key, request, reply = item(1, "first \ud800")  # a lone surrogate, which UTF-8 cannot hold
    assert store.put(key, request, reply) is True
    assert store.put(key, request, StoredReply("second", "stop", 1, 1, 1.0)) is False
    assert store.get(key.digest) == reply
    assert store.get(item(2)[0].digest) is None
    store.close()
    with sqlite3.connect(tmp_path / "store") as connection:
        for statement in ("UPDATE critiques SET reply = '1'", "DELETE FROM critiques"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    assert store.get(key.digest) == reply  # opens the file again


def test_a_model_trained_anew_under_the_same_path_is_another_judge(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"old")
    os.utime(weights, ns=(1, 1))
    engine = Named(by_seed, model=str(tmp_path))
    old = judge_identity(engine)
    assert judge_identity(engine) == old
    weights.write_bytes(b"new")
    os.utime(weights, ns=(2, 2))
    new = judge_identity(engine)
    assert new != old
    # Nor is one whose every request carries other fields.
    engine.extra = {}
    assert judge_identity(engine) == new
    engine.extra = {"chat_template_kwargs": {"enable_thinking": False}}
    assert judge_identity(engine) != new
    # Nor one that computes in another precision.
    engine.extra, engine.precision = {}, "bfloat16"
    assert judge_identity(engine) != new


def test_an_engine_has_an_identity_of_its_own_for_every_precision(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    names = [judge_identity(HFEngine(str(tmp_path), dtype=dtype)) for dtype in ("auto", "float32", "bfloat16")]
    assert len(set(names)) == 3
    assert judge_identity(VLLMEngine(str(tmp_path), dtype="bfloat16")) != judge_identity(VLLMEngine(str(tmp_path)))


def test_judges_that_cannot_be_named_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ScriptedEngine, which does not name its model"):
        judged(ScriptedEngine(by_seed), [rollout()], store=tmp_path / "store")
    moving = Named(by_seed)
    moving.load_weights([], version=3)
    with pytest.raises(ConfigError, match=r"weights change \(version 3\)"):
        judged(moving, [rollout()], store=tmp_path / "store")
    assert moving.requests == []


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to have a header " * 10)
    with pytest.raises(DataError, match=r"notes.txt.*store that cannot be used"):
        CritiqueStore(text)
    assert text.read_text().startswith("not a database")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(DataError, match="mine"):
        CritiqueStore(other)
    newer = tmp_path / "newer.sqlite"
    CritiqueStore(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(DataError, match="version 2"):
        CritiqueStore(newer)
