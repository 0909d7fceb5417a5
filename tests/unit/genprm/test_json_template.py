"""The JSON variant of the judge's prompt: it asks for what parse_critique reads."""

import pytest

from capo_lit.errors import ConfigError
from capo_lit.genprm.prompts import load_template
from capo_lit.genprm.render import render_messages
from tests.judging import content, judged, rollout
from tests.scripted_engine import ScriptedEngine


@pytest.mark.parametrize("reference", [None, "the known answer"])
def test_the_packaged_json_template_asks_for_an_object_and_shows_the_same_steps(reference: str | None) -> None:
    (boxed,), (json,) = (
        render_messages("p", ["a", "b"], reference, "n0", load_template(name, reference is not None))
        for name in ("boxed", "json")
    )
    assert ("wrong_steps" in json["content"], "boxed" in json["content"]) == (True, False)
    assert ("wrong_steps" in boxed["content"], "boxed" in boxed["content"]) == (False, True)
    # They differ in nothing but how to finish.
    head = boxed["content"].index("After the last step, finish")
    assert head > 500
    assert json["content"][:head] == boxed["content"][:head]


def test_a_judge_that_answers_in_json() -> None:
    replies = [
        '{"analysis": "Step 1 adds wrongly: \\\\boxed{0}.", "wrong_steps": [1]}',
        '```json\n{"analysis": "", "wrong_steps": []}\n```',
        '{"analysis": "", "wrong_steps": [3]}',  # steps are 0 to 2
        '{"analysis": "cut',
    ]
    engine = ScriptedEngine(replies)
    (item,) = judged(engine, [rollout()], template="json", early_stop=False)
    assert [critique.wrong for critique in item.critiques] == [{1}, frozenset(), None, None]
    assert '"wrong_steps", the list of the numbers' in content(engine.requests[0])


def test_boxed_is_the_default_and_other_names_are_paths() -> None:
    assert load_template() == load_template("boxed")
    assert load_template(reference=True) == load_template("boxed", reference=True)
    with pytest.raises(ConfigError, match="xml"):
        load_template("xml")
