"""capo_lit: Credit Assignment Policy Optimization on Lightning.

The public names, each loaded from where it lives when it is first asked for: importing this module imports neither
torch nor vllm. A config may say `class_path: capo_lit.GenPRM`. The map of the package is docs/architecture.md.
"""

from typing import TYPE_CHECKING

from capo_lit.core.lazy import lazy_names

if TYPE_CHECKING:
    from capo_lit.arithmetic.judge import ArithmeticStepVerifier as ArithmeticStepVerifier
    from capo_lit.arithmetic.task import ArithmeticSource as ArithmeticSource
    from capo_lit.batch.credit import CreditConfig as CreditConfig
    from capo_lit.batch.credit import assign_credit as assign_credit
    from capo_lit.batch.facts import Completion as Completion
    from capo_lit.batch.facts import Critique as Critique
    from capo_lit.batch.facts import CritiquedRollout as CritiquedRollout
    from capo_lit.batch.facts import Prompt as Prompt
    from capo_lit.batch.facts import Rollout as Rollout
    from capo_lit.batch.sampling import Sampling as Sampling
    from capo_lit.batch.step import StepBatch as StepBatch
    from capo_lit.core.credit import advantages as advantages
    from capo_lit.core.credit import token_rewards as token_rewards
    from capo_lit.core.loss import policy_loss as policy_loss
    from capo_lit.core.steps import split_steps as split_steps
    from capo_lit.core.steps import token_steps as token_steps
    from capo_lit.core.votes import Verdict as Verdict
    from capo_lit.core.votes import settled as settled
    from capo_lit.core.votes import tally as tally
    from capo_lit.data.module import PromptDataModule as PromptDataModule
    from capo_lit.data.problem import Problem as Problem
    from capo_lit.data.sft import SFTDataModule as SFTDataModule
    from capo_lit.data.sources import FileSource as FileSource
    from capo_lit.data.sources import HubSource as HubSource
    from capo_lit.data.sources import PromptSource as PromptSource
    from capo_lit.data.sources import ReasoningGymSource as ReasoningGymSource
    from capo_lit.engines.base import Engine as Engine
    from capo_lit.engines.base import Request as Request
    from capo_lit.engines.hf import HFEngine as HFEngine
    from capo_lit.engines.http.engine import HTTPEngine as HTTPEngine
    from capo_lit.engines.policy import PolicyEngine as PolicyEngine
    from capo_lit.engines.servers.engine import VLLMServers as VLLMServers
    from capo_lit.engines.vllm import VLLMEngine as VLLMEngine
    from capo_lit.genprm.base import StepJudge as StepJudge
    from capo_lit.genprm.judge import GenPRM as GenPRM
    from capo_lit.genprm.outcome import GenORM as GenORM
    from capo_lit.genprm.parse import parse_critique as parse_critique
    from capo_lit.genprm.render import render_messages as render_messages
    from capo_lit.records.inspect.loading import load as load
    from capo_lit.records.replay import replay as replay
    from capo_lit.records.schema import read_records as read_records
    from capo_lit.training.callbacks.critique import CritiqueCallback as CritiqueCallback
    from capo_lit.training.callbacks.gate import JudgeGateCallback as JudgeGateCallback
    from capo_lit.training.callbacks.record import RecordCallback as RecordCallback
    from capo_lit.training.callbacks.rollout import RolloutCallback as RolloutCallback
    from capo_lit.training.capo import CapoModule as CapoModule
    from capo_lit.training.settings import LossConfig as LossConfig
    from capo_lit.training.settings import OptimConfig as OptimConfig
    from capo_lit.training.settings import UpdateConfig as UpdateConfig
    from capo_lit.training.sft import SFTModule as SFTModule
    from capo_lit.verifier.outcomes import NoisyOutcomes as NoisyOutcomes
    from capo_lit.verifier.outcomes import OutcomeSource as OutcomeSource
    from capo_lit.verifier.pool import Verifier as Verifier

__version__ = "0.1.0"

# Where every public name lives; the imports above say the same to type checkers.
_HOMES = {
    "StepBatch": "capo_lit.batch.step",
    "CritiqueCallback": "capo_lit.training.callbacks.critique",
    "JudgeGateCallback": "capo_lit.training.callbacks.gate",
    "RecordCallback": "capo_lit.training.callbacks.record",
    "RolloutCallback": "capo_lit.training.callbacks.rollout",
    "advantages": "capo_lit.core.credit",
    "token_rewards": "capo_lit.core.credit",
    "policy_loss": "capo_lit.core.loss",
    "split_steps": "capo_lit.core.steps",
    "token_steps": "capo_lit.core.steps",
    "Verdict": "capo_lit.core.votes",
    "settled": "capo_lit.core.votes",
    "tally": "capo_lit.core.votes",
    "assign_credit": "capo_lit.batch.credit",
    "ArithmeticSource": "capo_lit.arithmetic.task",
    "PromptDataModule": "capo_lit.data.module",
    "SFTDataModule": "capo_lit.data.sft",
    "FileSource": "capo_lit.data.sources",
    "HubSource": "capo_lit.data.sources",
    "Problem": "capo_lit.data.problem",
    "PromptSource": "capo_lit.data.sources",
    "ReasoningGymSource": "capo_lit.data.sources",
    "Engine": "capo_lit.engines.base",
    "Request": "capo_lit.engines.base",
    "HFEngine": "capo_lit.engines.hf",
    "HTTPEngine": "capo_lit.engines.http.engine",
    "PolicyEngine": "capo_lit.engines.policy",
    "VLLMServers": "capo_lit.engines.servers.engine",
    "VLLMEngine": "capo_lit.engines.vllm",
    "Completion": "capo_lit.batch.facts",
    "Critique": "capo_lit.batch.facts",
    "CritiquedRollout": "capo_lit.batch.facts",
    "Prompt": "capo_lit.batch.facts",
    "Rollout": "capo_lit.batch.facts",
    "ArithmeticStepVerifier": "capo_lit.arithmetic.judge",
    "StepJudge": "capo_lit.genprm.base",
    "GenPRM": "capo_lit.genprm.judge",
    "GenORM": "capo_lit.genprm.outcome",
    "parse_critique": "capo_lit.genprm.parse",
    "render_messages": "capo_lit.genprm.render",
    "replay": "capo_lit.records.replay",
    "load": "capo_lit.records.inspect.loading",
    "CapoModule": "capo_lit.training.capo",
    "NoisyOutcomes": "capo_lit.verifier.outcomes",
    "OutcomeSource": "capo_lit.verifier.outcomes",
    "read_records": "capo_lit.records.schema",
    "Sampling": "capo_lit.batch.sampling",
    "CreditConfig": "capo_lit.batch.credit",
    "LossConfig": "capo_lit.training.settings",
    "OptimConfig": "capo_lit.training.settings",
    "UpdateConfig": "capo_lit.training.settings",
    "SFTModule": "capo_lit.training.sft",
    "Verifier": "capo_lit.verifier.pool",
}
__all__ = sorted(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
