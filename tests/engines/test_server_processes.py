"""Processes and files of servers that are ours: what is started, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.engines.servers import files, guard, launch
from capo_lit.engines.servers.files import WeightFolder
from capo_lit.engines.servers.launch import OwnServer, ServerSettings, gpus_of
from tests.support.http_world import wait_for

SETTINGS = ServerSettings("m", "float32", 128, 16, 0.5, 0.9, "capo_files")
# A server of two processes, each of which writes its id.
SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
FAMILY = f"echo $$ > first; {sys.executable} -c '{SLEEPER}' > second; wait"


def ids(folder: Path) -> list[int]:
    written = [folder / name for name in ("first", "second")]
    assert wait_for(lambda: all(path.exists() and path.read_text().strip() for path in written), 20)
    return [int(path.read_text()) for path in written]


def gone(found: list[int]) -> bool:
    return wait_for(lambda: not any(alive(pid) for pid in found), 20)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def guarded(folder: Path, parent: int, weights: Path) -> "subprocess.Popen[bytes]":
    words = [sys.executable, guard.__file__, str(parent), str(weights), "sh", "-c", f"cd {folder}; {FAMILY}"]
    return subprocess.Popen(words, start_new_session=True)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_server_of_which_the_first_process_dies_goes_whole(tmp_path: Path, victim: int):
    (weights := tmp_path / "weights").mkdir()
    process = guarded(tmp_path, os.getpid(), weights)
    found = ids(tmp_path)
    os.kill((found[0], process.pid)[victim], signal.SIGKILL)
    process.wait(20)
    if victim:  # a guard that is killed itself takes nobody along; whoever started it kills the group
        os.killpg(process.pid, signal.SIGKILL)
    assert gone(found)
    assert weights.is_dir()  # a server that is started anew needs them


def test_a_trainer_that_is_killed_takes_server_and_weights_along(tmp_path: Path):
    (weights := tmp_path / "weights").mkdir()
    code = f"""
        import os, subprocess, sys, time
        subprocess.Popen([sys.executable, {guard.__file__!r}, str(os.getpid()), {str(weights)!r}, "sh", "-c",
                          {f"cd {tmp_path}; {FAMILY}"!r}], start_new_session=True)
        time.sleep(60)
    """
    trainer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    found = ids(tmp_path)
    assert all(alive(pid) for pid in found)
    trainer.kill()
    trainer.wait()
    assert gone(found)
    assert wait_for(lambda: not weights.exists())


def test_a_server_is_started_apart_from_the_trainers_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_PLUGINS", "mine")
    monkeypatch.setattr(launch, "_check_plugin", lambda: None)
    show = (
        "import os; known = ('VLLM', 'CUDA', 'RANK', 'LOCAL', 'MASTER', 'TORCH');"
        "print([name for name in sorted(os.environ) if name.startswith(known)], os.environ['VLLM_PLUGINS'], flush=True)"
    )
    monkeypatch.setattr(ServerSettings, "words", lambda self, port, gpus: [sys.executable, "-c", show])
    server = OwnServer(SETTINGS, 0, 2, "4,5", None, tmp_path / "logs" / "server-0.log")
    assert not server.alive
    server.start()
    assert wait_for(lambda: "mine,capo_lit" in server.said(), 20)
    assert wait_for(lambda: not server.alive, 20)
    said = server.said()
    assert "'VLLM_SERVER_DEV_MODE'" in said
    assert "'CUDA_VISIBLE_DEVICES'" in said
    for name in ("RANK'", "MASTER_ADDR", "TORCHELASTIC", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        assert name not in said
    server.stop()


def test_the_command_line_says_what_rollouts_need():
    words = SETTINGS.words(8000, None)
    pairs = dict(pairwise(words))
    assert pairs["--logprobs-mode"] == "processed_logprobs"
    assert pairs["--weight-transfer-config"] == '{"backend": "capo_files"}'
    assert pairs["--kv-cache-memory-bytes"] == str(2**29)
    assert {"--enable-scale-out", "--enforce-eager", "--no-enable-chunked-prefill"} <= set(words)
    split = SETTINGS.words(8000, "4,5")
    assert dict(pairwise(split))["--tensor-parallel-size"] == "2"
    assert "--enforce-eager" not in split


def test_an_installation_without_the_plugin_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "entry_points", lambda group: ())
    with pytest.raises(EngineError, match="install capo_lit again"):
        OwnServer(SETTINGS, 0, 1, None, None, tmp_path / "log").start()


def test_gpus_are_dealt_out_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpus_of(2, ["6", "4,5"]) == ["6", "4,5"]
    for gpus in (None, ["6"]):
        with pytest.raises(ConfigError, match="2 servers with gpus"):
            gpus_of(2, gpus)


def test_weights_are_written_in_chunks_and_the_older_ones_stay_until_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "CHUNK", 40)
    folder = WeightFolder(tmp_path)
    tensors = {f"w{index}": torch.full((3,), float(index)) for index in range(7)}
    first = folder.write(tensors.items(), "a:0")
    assert first.paths is not None
    assert len(first.paths) == 2  # of 12 bytes each; a chunk is full at 40
    found = {name: value for path in first.paths for name, value in load_file(path).items()}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    second = folder.write(tensors.items(), "b:1")
    assert second.paths is not None
    assert all(Path(path).exists() for path in (*first.paths, *second.paths))
    folder.keep(second)
    assert not any(Path(path).exists() for path in first.paths)
    assert all(Path(path).exists() for path in second.paths)
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_processes_that_are_no_more_are_removed_and_no_others(tmp_path: Path):
    mine = WeightFolder(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = mine.path.with_name(mine.path.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    elsewhere = tmp_path / f"capo-weights-othermachine-{ended.pid}-abcd"
    for folder in (left, elsewhere):
        folder.mkdir()
    WeightFolder(tmp_path)
    assert not left.exists()
    assert mine.path.exists()
    assert elsewhere.exists()
