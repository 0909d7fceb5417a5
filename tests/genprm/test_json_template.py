"""The JSON variant of the judge's prompt: it asks for what parse_critique reads."""

import json
from pathlib import Path

import pytest

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.engines.base import Request
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.http.engine import HTTPEngine
from capo_lit.engines.http.protocol import body_of
from capo_lit.genprm.judge import GenPRM
from capo_lit.genprm.outcome import GenORM
from capo_lit.genprm.prompts import PACKAGED, load_template
from capo_lit.genprm.render import render_messages
from tests.support.byte_llama import build
from tests.support.judging import content, judged, rollout
from tests.support.misbehaving_server import MisbehavingServer
from tests.support.scripted_engine import ScriptedEngine


@pytest.mark.parametrize("reference", [None, "the known answer"])
def test_the_packaged_json_template_asks_for_an_object_and_shows_the_same_steps(reference: str | None) -> None:
    (boxed,), (braced,) = (
        render_messages("p", ["a", "b"], reference, "n0", load_template(name, reference is not None))
        for name in ("boxed", "json")
    )
    assert ("wrong_steps" in braced["content"], "boxed" in braced["content"]) == (True, False)
    assert ("wrong_steps" in boxed["content"], "boxed" in boxed["content"]) == (False, True)
    # They differ in nothing but how to finish.
    head = boxed["content"].index("After the last step, finish")
    assert head > 500
    assert braced["content"][:head] == boxed["content"][:head]


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
    assert {json.dumps(request.schema) for request in engine.requests} == {json.dumps(load_template("json").schema)}


def test_boxed_is_the_default_and_other_names_are_paths() -> None:
    assert load_template() == load_template("boxed")
    assert load_template(reference=True) == load_template("boxed", reference=True)
    with pytest.raises(ConfigError, match="xml"):
        load_template("xml")


@pytest.mark.parametrize("reference", [False, True])
def test_the_packaged_schema_is_of_what_the_prompt_asks(reference: bool) -> None:
    schema = load_template("json", reference).schema
    assert list(schema["properties"]) == schema["required"] == ["analysis", "wrong_steps"]
    assert schema["properties"]["analysis"] == {"type": "string"}
    assert schema["properties"]["wrong_steps"]["items"]["type"] == "integer"
    assert load_template("boxed", reference).schema is None


def test_lines_at_the_head_of_a_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    schema = {"type": "object", "properties": {"wrong_steps": {"type": "array"}}}
    line = f"schema: {json.dumps(schema)}"
    for head in (f"index_base: 1\n{line}\n\n", f"{line}  \r\n\r\nindex_base: 1\r\n"):
        file.write_text(f"{head}{{problem}} {{steps}}", newline="")
        template = load_template(file)
        assert (template.text, template.index_base, template.schema) == ("{problem} {steps}", 1, schema)
    file.write_text("{problem} {steps}\nschema: 3")
    assert load_template(file).schema is None


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '"properties"', "{}", '{"properties": {"steps": {}}}', "null"])
def test_a_schema_without_a_verdict_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(f"schema: {line}\n{{problem}} {{steps}}")
    with pytest.raises(ConfigError, match='property "wrong_steps"'):
        load_template(file)


def test_engines_that_cannot_keep_a_schema_refuse_it(tmp_path: Path) -> None:
    engine = HFEngine(str(build(tmp_path)))
    with pytest.raises(ConfigError, match=r"HFEngine, which cannot hold.*VLLMEngine, HTTPEngine"):
        GenPRM(engine, "json")
    request = Request("r", (1, 2), Sampling(max_tokens=2), 0, load_template("json").schema)
    with pytest.raises(EngineError, match="JSON schema"):
        engine.submit(request).result(0)
    with pytest.raises(ConfigError, match="verdict is boxed"):
        GenORM(ScriptedEngine([]), template=str(PACKAGED / "critique_json.txt"))


def test_a_server_is_sent_the_schema_as_its_response_format() -> None:
    schema = load_template("json").schema
    request = Request("r", ({"role": "user", "content": "hi"},), Sampling(), 0, schema)
    sent = body_of(request, {})["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
    assert json.loads(json.dumps(sent)) == sent
    # A server that knows nothing of it.
    assert "response_format" not in body_of(request, {"response_format": None})
    assert "response_format" not in body_of(Request("r", request.prompt, Sampling(), 0), {})


def test_a_judge_behind_a_server_asks_for_its_schema_with_every_request() -> None:
    with MisbehavingServer(reply=lambda body: '{"analysis": "", "wrong_steps": [1]}') as server:
        engine = HTTPEngine("judge", [server.url], timeout_s=10.0)
        (item,) = GenPRM(engine, "json", k=3, early_stop=False).judge([rollout()], 0)
        engine.close()
    assert [critique.wrong for critique in item.critiques] == [{1}] * 3
    schemas = [body["response_format"]["json_schema"]["schema"] for body in server.bodies]
    assert schemas == [load_template("json").schema] * 3


def test_a_stored_reply_is_that_of_its_schema(tmp_path: Path) -> None:
    def asked(*head: str) -> int:
        file = tmp_path / "mine.txt"
        file.write_text("\n".join([*head, "{problem} {steps}"]))
        engine = Named(lambda request: r"\boxed{1}")
        judged(engine, [rollout()], k=2, template=file, store=tmp_path / "store.db", early_stop=False)
        return len(engine.requests)

    bound = 'schema: {"properties": {"wrong_steps": {}}}'
    assert [asked(), asked(bound), asked(), asked(bound)] == [2, 2, 0, 0]


class Named(ScriptedEngine):
    model = "judge"
