"""The two DataModules, alone and under a real Trainer."""

from pathlib import Path

import pytest
import torch

from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.module import PromptDataModule
from capo_lit.data.render import PromptTemplate
from capo_lit.data.sft import SFTBatch, SFTDataModule
from capo_lit.data.sources import Problem, PromptSource
from tests.support.byte_tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(path)
    return str(path)


class Listed(PromptSource):
    """n problems of one, two, ... characters."""

    def __init__(self, n: int, start: int = 0) -> None:
        self.problems = [Problem(f"u{i}", "x" * (i + 1), str(i), f"r{i}") for i in range(start, start + n)]

    def load(self):
        return self.problems


def test_prompt_data_module_renders_drops_and_batches(tokenizer_path, caplog, monkeypatch):
    monkeypatch.setattr("capo_lit.data.module.VAL_BATCH", 2)
    # "plain" {problem} over bytes: problem u{i} has i + 1 tokens, so a limit of 8 drops u8..u19.
    data = PromptDataModule(
        Listed(20),
        tokenizer_path,
        val=Listed(3),
        template=PromptTemplate(style="plain", text="{problem}"),
        prompts_per_step=4,
        max_prompt_tokens=8,
    )
    with caplog.at_level("WARNING", logger="capo_lit.data.module"):
        data.setup("fit")
    dropped = [f"u{i}" for i in range(8, 20)]
    assert data.dropped == {"train": dropped, "val": []}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "dropped 12 of 20" in message
    assert all(uid in message for uid in dropped[:10])
    assert "u18" not in message
    batches = list(data.train_dataloader())
    assert [type(batch) for batch in batches] == [StepBatch] * 2
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    assert sorted(prompt.uid for prompt in prompts) == [f"u{i}" for i in range(8)]
    assert all(len(p.ids) == len(p.problem) and p.answer == p.uid[1:] and p.reference for p in prompts)
    assert [[p.uid for p in batch.prompts] for batch in data.val_dataloader()] == [["u0", "u1"], ["u2"]]
    assert data.test_dataloader() == []


def test_a_chat_and_several_answers_reach_the_prompt(tokenizer_path):
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"})
    listed, tokenizer = Listed(1), byte_tokenizer()
    listed.problems = [Problem("u", "1+1?", "2 or two", "It is 2.", ("2", "two"), turns)]
    data = PromptDataModule(listed, tokenizer_path, template=PromptTemplate(text="{problem}"), prompts_per_step=1)
    data.setup("fit")
    ((prompt,),) = (batch.prompts for batch in data.train_dataloader())
    whole = tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=True)["input_ids"]
    assert (prompt.ids, prompt.problem, prompt.answers) == (tuple(whole), "1+1?", ("2", "two"))
    supervised = SFTDataModule(listed, tokenizer_path, template=PromptTemplate(text="{problem}"), prompts_per_step=1)
    supervised.setup("fit")
    (batch,) = supervised.train_dataloader()
    assert tuple(batch.ids[0][: batch.prompt_lengths[0]]) == prompt.ids
    with pytest.raises(DataError, match=r"problem 'u': got a chat of turns system, user.*template\.style chat"):
        PromptDataModule(listed, tokenizer_path, template=PromptTemplate("plain", "{problem}")).setup("fit")


def test_prompt_data_module_errors(tokenizer_path):
    plain = PromptTemplate(style="plain", text="{problem}")
    with pytest.raises(DataError, match="all longer than 2 tokens"):
        PromptDataModule(Listed(3, start=5), tokenizer_path, template=plain, max_prompt_tokens=2).setup("fit")
    data = PromptDataModule(Listed(3), tokenizer_path, template=plain, prompts_per_step=4)
    data.setup("fit")
    with pytest.raises(ConfigError, match="3 items"):
        data.train_dataloader()
    with pytest.raises(ConfigError, match="tokenizer"):
        PromptDataModule(Listed(3), tokenizer_path + "-none", template=plain).setup("fit")
    unanswered = Listed(1)
    unanswered.problems = [Problem("u", "p", "")]
    with pytest.raises(DataError, match="problem 'u'"):
        PromptDataModule(unanswered, tokenizer_path, template=plain).setup("fit")


def test_sft_data_module(tokenizer_path):
    data = SFTDataModule(
        Listed(5),
        tokenizer_path,
        val=Listed(2),
        template=PromptTemplate("plain", "{problem}"),
        prompts_per_step=2,
        max_tokens=7,
    )
    data.setup("fit")
    # u{i}: i + 1 bytes of prompt, "r{i}" is 2, the end token 1: i + 4 tokens, and u4 has 8.
    assert data.dropped["train"] == ["u4"]
    batches = list(data.train_dataloader())
    assert [type(batch) for batch in batches] == [SFTBatch] * 2
    tokenizer = byte_tokenizer()
    rows = sorted((length, ids) for b in batches for ids, length in zip(b.ids, b.prompt_lengths, strict=True))
    assert [length for length, _ in rows] == [1, 2, 3, 4]
    for length, ids in rows:
        assert tokenizer.decode(ids[:length]) == "x" * length
        assert tokenizer.decode(ids[length:]) == f"r{length - 1}</s>"
    (val,) = data.val_dataloader()
    assert isinstance(val, StepBatch)
    without = Listed(1)
    without.problems = [Problem("u", "p", "1")]
    with pytest.raises(DataError, match=r"problem 'u'.*fields\.reference"):
        SFTDataModule(without, tokenizer_path, template=PromptTemplate("plain", "{problem}")).setup("fit")


@pytest.mark.parametrize("kind", [PromptDataModule, SFTDataModule])
def test_an_evaluation_without_problems_is_an_error_and_a_fit_without_validation_is_none(tokenizer_path, kind):
    plain = PromptTemplate("plain", "{problem}")
    data = kind(Listed(8), tokenizer_path, template=plain)
    data.setup("fit")
    for stage, split in (("validate", "val"), ("test", "test"), ("predict", "test")):
        with pytest.raises(ConfigError, match=rf"data\.{split} null, and so no problems.*--data\.{split}"):
            data.setup(stage)


def test_sft_tests_on_the_test_problems(tokenizer_path):
    plain = PromptTemplate("plain", "{problem}")
    data = SFTDataModule(Listed(8), tokenizer_path, val=Listed(2), test=Listed(3, start=4), template=plain)
    data.setup("test")
    assert [prompt.uid for batch in data.test_dataloader() for prompt in batch.prompts] == ["u4", "u5", "u6"]
    assert data.fingerprint("test")["problems"] == 3


def test_a_killed_fit_resumes_in_the_middle_of_an_epoch(tokenizer_path, tmp_path):
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Recorder(LightningModule):
        def __init__(self, fail_at: int | None = None) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.fail_at, self.seen = fail_at, []

        def training_step(self, batch, batch_idx):
            if batch.step == self.fail_at:
                raise RuntimeError("killed")
            self.seen.append((batch.step, [p.uid for p in batch.prompts]))
            optimizer = self.optimizers()
            self.manual_backward((self.weight - len(batch.prompts)) ** 2)
            optimizer.step()
            optimizer.zero_grad()

        def validation_step(self, batch, batch_idx):
            self.seen.append(("val", [p.uid for p in batch.prompts]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def run(fail_at: int | None, ckpt: str | None, folder: Path) -> Recorder:
        module = Recorder(fail_at)
        data = PromptDataModule(
            Listed(10), tokenizer_path, val=Listed(3), template=PromptTemplate("plain", "{problem}"), prompts_per_step=2
        )
        keep = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = Trainer(
            max_steps=13, accelerator="cpu", devices=1, logger=False, callbacks=[keep], enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=3, check_val_every_n_epoch=None,
        )  # fmt: skip
        if fail_at is None:
            trainer.fit(module, data, ckpt_path=ckpt)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                trainer.fit(module, data, ckpt_path=ckpt)
        return module

    whole = run(None, None, tmp_path / "whole")
    assert [step for step, _ in whole.seen if step != "val"] == list(range(13))
    # Epochs of 5 steps: killed in the middle of the second one, right after its first, and at the very end of it.
    for fail_at in (7, 5, 10):
        folder = tmp_path / str(fail_at)
        first = run(fail_at, None, folder)
        second = run(None, str(folder / f"step={fail_at}.ckpt"), folder)
        assert [s for s in first.seen + second.seen if s[0] != "val"] == [s for s in whole.seen if s[0] != "val"]
        assert torch.equal(second.weight, whole.weight)


@pytest.mark.slow
def test_golds_that_nothing_but_text_can_be_compared_with_are_named_at_loading(tokenizer_path, caplog):
    class Odd(Listed):
        def load(self):
            return [*super().load(), Problem("odd", "x", r"\frac{1}{0}"), Problem("dots", "x", r"1, \ldots, n")]

    plain = PromptTemplate(style="plain", text="{problem}")
    with caplog.at_level("WARNING", logger="capo_lit.data.module"):
        PromptDataModule(Odd(2), tokenizer_path, val=Listed(2), template=plain).setup("fit")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("train: 2 gold answers can be compared as text only")
    assert "odd: " in message
    assert "dots: " in message
