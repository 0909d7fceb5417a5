"""GenPRM: its settings, and the combinations it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError
from capo_lit.core.steps import split_steps
from capo_lit.genprm.base import critiqued, step_texts
from capo_lit.genprm.judge import GenPRM
from tests.support.judging import SOLUTION, content, judged, rollout
from tests.support.scripted_engine import ScriptedEngine


@pytest.mark.parametrize(("reference", "shown"), [("a full solution", "a full solution"), (None, "GOLD")])
def test_reference(reference: str | None, shown: str) -> None:
    engine = ScriptedEngine(lambda request: r"\boxed{none}")
    judged(engine, [rollout(reference=reference)], k=1, reference=True)
    judged(engine, [rollout(reference=reference)], k=1)
    assert [shown in content(request) for request in engine.requests] == [True, False]


def test_a_template_that_counts_from_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("index_base: 1\n{problem}\n{steps}")
    engine = ScriptedEngine([r"\boxed{1, 3}"])
    (item,) = judged(engine, [rollout()], k=1, template=path)
    assert "<step_1 " in content(engine.requests[0])
    assert "<step_0 " not in content(engine.requests[0])
    assert item.critiques[0].wrong == {0, 2}


def test_the_steps_are_those_of_the_rollout() -> None:
    engine = ScriptedEngine([r"\boxed{1}"])
    (item,) = judged(engine, [replace(rollout(text="a\nb"), spans=((0, 2), (2, 3)))], k=1)
    assert item.verdict.step_error == (0.0, 1.0)


COLD, WARM = Sampling(temperature=0.0), Sampling(temperature=1.0)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"k": 0}, "k 0"),
        ({"k": 4, "sampling": COLD}, "temperature 0"),
        ({"k": 4, "sampling": COLD, "vote": "greedy"}, "greedy"),
        ({"k": 1, "sampling": WARM, "vote": "greedy"}, "greedy"),
        ({"vote": "plurality"}, "plurality"),
        ({"deadline_s": 0.0}, "deadline_s"),
        ({"template": "/nowhere/mine.txt"}, "mine.txt"),
    ],
)
def test_bad_settings(settings: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        GenPRM(ScriptedEngine([]), **settings)


def test_greedy_is_one_critique_at_temperature_0() -> None:
    engine = ScriptedEngine([r"\boxed{2}"])
    (item,) = judged(engine, [rollout()], k=1, vote="greedy", sampling=COLD)
    assert item.verdict.step_error == (0.0, 0.0, 1.0)
    assert engine.requests[0].sampling.temperature == 0


@pytest.mark.parametrize("text", ["", "a", SOLUTION, "\n\na\n\n\n\nb\n"])
def test_step_texts_and_critiqued(text: str) -> None:
    spans = split_steps(text)
    assert "".join(step_texts(text, spans)) == text
    item = critiqued(rollout(text=text), [], "majority")
    assert (item.spans, item.critiques) == (tuple(spans), ())
    assert item.verdict.step_error == (0.0,) * len(spans)
