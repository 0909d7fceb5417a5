"""A result is written with its manifest or not at all."""

import json
from dataclasses import replace

import pytest

from capo_lit.core.errors import ConfigError
from capo_lit.records.results import Manifest, installed_versions, read_result, write_result

MANIFEST = Manifest(
    model="some/policy",
    policy_version=0,
    data={"split": "val", "problems": 2, "sha256": "ab"},
    sampling={"samples": 2, "temperature": 1.0},
    engine="capo_lit.engines.vllm.VLLMEngine (torch.float32)",
    seed=0,
)


def test_a_result_holds_metrics_and_everything_needed_to_repeat_it(tmp_path):
    path = tmp_path / "results" / "val-step=0.json"
    write_result(path, {"val/avg_at_k": 0.5}, MANIFEST)
    values, manifest = read_result(path)
    assert values == {"val/avg_at_k": 0.5}
    assert manifest["data"] == {"split": "val", "problems": 2, "sha256": "ab"}
    assert manifest["policy_version"] == manifest["seed"] == 0
    assert manifest["versions"]["torch"] == installed_versions()["torch"]
    assert manifest["command"]
    assert [file.name for file in path.parent.iterdir()] == ["val-step=0.json"]


@pytest.mark.parametrize("manifest", [None, {}, {"model": "x"}])
def test_no_result_without_a_manifest(tmp_path, manifest):
    with pytest.raises(ConfigError, match="none is written without"):
        write_result(tmp_path / "result.json", {"val/avg_at_k": 0.5}, manifest)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["model", "data", "sampling", "engine", "versions"])
def test_no_manifest_with_an_empty_field(field):
    with pytest.raises(ConfigError, match=f"without {field}"):
        replace(MANIFEST, **{field: type(getattr(MANIFEST, field))()})


def test_no_result_without_metrics(tmp_path):
    with pytest.raises(ConfigError, match="without metrics"):
        write_result(tmp_path / "result.json", {}, MANIFEST)


def test_versions_are_those_installed():
    import torch

    assert installed_versions()["torch"] == torch.__version__
    assert json.dumps(installed_versions())
