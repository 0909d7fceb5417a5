"""The Lightning CLI of this project: which blocks a config has, and which values are linked."""

import os
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

# LightningCLI calls names that jsonargparse has renamed; its notices are not the user's business.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from transformers.utils.logging import disable_progress_bar

from capo_lit.cli.memory import hardware, run_memory
from capo_lit.cli.parser import CapoParser
from capo_lit.cli.refusals import in_our_words, leaves
from capo_lit.cli.run_checks import check_folders, check_seed, check_trainer
from capo_lit.core.errors import ConfigError
from capo_lit.training.callbacks.checkpoint import AtomicCheckpointIO, BestCheckpoint, RunCheckpoint, resolve_checkpoint
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.export import ExportCallback
from capo_lit.training.callbacks.lm_eval import LMEvalCallback
from capo_lit.training.callbacks.progress import default_progress
from capo_lit.training.callbacks.record import RecordCallback
from capo_lit.training.callbacks.results import ResultsCallback
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.loading import loading_deferred
from capo_lit.training.memory import GIB, memory_parts, totals
from capo_lit.training.memory_advice import check_memory
from capo_lit.training.policy import PolicyModule

_HARMLESS = (
    ".*no pre-optimization state.*",
    ".*does not have many workers.*",
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # vLLM makes a process group of one; we do reduce
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*Checkpoint directory .* exists and is not empty.*",
)


class CapoCLI(LightningCLI):
    """Blocks `policy`, `seed_everything`, `model`, `data` and one for each of the callbacks that are always there."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that are always there, in the order in which they run, and the links."""
        parser.add_argument(
            "--policy", type=str, required=True, help="Directory or hub id of the policy, a Hugging Face causal LM."
        )
        parser.add_lightning_class_args(RolloutCallback, "rollout")
        parser.add_lightning_class_args(CritiqueCallback, "critique")
        parser.add_lightning_class_args(RecordCallback, "record")
        parser.add_lightning_class_args(ExportCallback, "export")
        parser.add_lightning_class_args(LMEvalCallback, "lm_eval")
        parser.add_lightning_class_args(ResultsCallback, "results")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_argument(
            "--validate_first", type=bool, default=False, help="Validate before the first step of a fit, as step 0."
        )
        for target in ("model.init_args.policy", "data.init_args.tokenizer", "rollout.engine.init_args.model"):
            parser.link_arguments("policy", target)
        for target in ("model.init_args.seed", "data.init_args.seed", "rollout.seed", "critique.seed", "lm_eval.seed"):
            parser.link_arguments("seed_everything", target)
        parser.link_arguments("critique.max_abstain_frac", "rollout.max_abstain_frac")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse a list or a dict. (Lightning's own warns when a list is given beside sys.argv, as `capo` does.)"""
        self.config = parser.parse_object(args) if isinstance(args, dict) else parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Keep the command line's settings: Lightning would put the checkpoint's over them."""

    def _set_seed(self) -> None:
        """Nothing yet: `instantiate_classes` does it after the checks, of which nothing but the error is to be seen."""

    def instantiate_classes(self) -> None:
        """Build everything, after what can be refused without loading anything."""
        self._check()
        super()._set_seed()
        # With shards only the first process reads the weights, when the strategy is set up.
        sharded = "ModelParallel" in str(self._get(self.config, "trainer", default={}).get("strategy"))
        with in_our_words(self._leaves()), loading_deferred() if sharded else nullcontext():
            super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        with in_our_words(self._leaves()):
            super()._run_subcommand(subcommand)

    def _leaves(self) -> dict[str, Any]:
        config = self.config[self.subcommand] if self.subcommand else self.config
        return leaves(config.as_dict()) | {"trainer.default_root_dir": str(self._root())}

    def _root(self) -> Path:
        return Path(self._get(self.config, "trainer", default={}).get("default_root_dir") or "runs/default")

    def _check(self) -> None:
        trainer, policy = self._get(self.config, "trainer", default={}), self._get(self.config, "policy")
        check_seed(self._get(self.config, "seed_everything"))
        check_trainer(trainer, self.subcommand)
        # A hub id is NAME or OWNER/NAME; what is deeper is a path.
        if policy.count("/") > 1 and not Path(policy).exists():
            raise ConfigError(
                f"policy {policy!r}, which does not exist",
                "a folder of a Hugging Face causal LM, or a hub id",
                change="--policy. The start of the built-in arithmetic is made by `capo prepare quickstart`",
            )
        if self.subcommand:
            self._checkpoint()
        if self.subcommand == "fit":
            self._plan()
        if trainer.get("fast_dev_run"):
            self._keep_no_critiques()
        elif self.subcommand:
            check_folders({"trainer.default_root_dir": self._root()})

    def _plan(self) -> None:
        """Say what the run will need, and refuse it if the machine has not got it."""
        config = self.config[self.subcommand].as_dict()
        machine = hardware(config)
        run = run_memory(config, machine)
        if run is None:
            return
        check_memory(run)
        sampling, training = (total / GIB for total in totals(memory_parts(run)))
        rank_zero_info(
            f"memory: about {sampling:.1f} GiB while sampling and {training:.1f} GiB while training, of "
            f"{machine.capacity / GIB:.1f} GiB ({machine.source}); `capo plan` lists the parts"
        )

    def _keep_no_critiques(self) -> None:
        """A dry run leaves nothing behind: its judges ask again what a store may hold, and add nothing to it."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        for judge in ("critique.judge", "critique.eval_judge", "rollout.outcomes"):
            if config.get(f"{judge}.init_args.store") is not None:
                config[f"{judge}.init_args.store"] = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers and a progress bar unless the config names its own, and write checkpoints atomically."""
        config = self._get(self.config_init, "trainer", default={})
        root = self._root()
        kwargs["default_root_dir"] = str(root)
        if config.get("logger") in (None, True):
            kwargs["logger"] = [CSVLogger(root, name="csv"), TensorBoardLogger(root, name="tensorboard")]
        kwargs["plugins"] = [*_as_list(config.get("plugins")), AtomicCheckpointIO()]
        if config.get("enable_progress_bar") is not False:
            # First, so that it tells of a step before the others start on the next.
            kwargs["callbacks"] = [default_progress(), *_as_list(config.get("callbacks"))]
            kwargs["enable_progress_bar"] = sys.stderr.isatty()
        with in_our_words(self._leaves(), building=True):
            return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Measure the policy that training starts from, unless the run is resumed."""
        if self.config_init.fit.validate_first and self._checkpoint() is None:
            self.trainer.validate(self.model, self.datamodule, verbose=False)

    def _checkpoint(self) -> Any:
        """The checkpoint to load; a fit that is to go on from its last one starts anew if there is none yet."""
        folders = {
            word: self._root() / block.folder for word, block in (("last", RunCheckpoint), ("best", BestCheckpoint))
        }
        word = self._get(self.config, "ckpt_path")
        return resolve_checkpoint(word, folders, may_start=self.subcommand == "fit")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["weights_only"] = True  # a checkpoint is data: nothing in it is run
        if subcommand == "fit":
            self._get(self.config_init, "record").resume = kwargs["ckpt_path"] is not None
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False
            self._get(self.config_init, "results").show = True  # in place of Lightning's own table
        kwargs["ckpt_path"] = self._checkpoint()
        return kwargs


def build(args: Any, run: bool = True, cli: type[CapoCLI] = CapoCLI, **kwargs: Any) -> CapoCLI:
    """Parse a config, build trainer, module and data, and run the subcommand.

    Args:
        args: a list of command line arguments, or a config as a dict.
        run: false only builds: `cli = build(config, run=False)` gives cli.trainer, cli.model and cli.datamodule, and
            the config then has no subcommand.
        cli: the class to build; one that only parses can check configs.
        kwargs: passed on to LightningCLI.
    """
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message)
    if not sys.stderr.isatty():
        disable_progress_bar()  # transformers draws one for every model it loads or saves
    return cli(
        PolicyModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        parser_class=CapoParser,
        args=args,
        run=run,
        **kwargs,
    )


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
