"""PPO with a value model, as a module of one's own: what CAPO argues against, by the package's own parts.

`gae` is the maths, `value` the value model, `module` the LightningModule, ppo.yaml its config. From the repository's
root:

    PYTHONPATH=. capo fit --config configs/quickstart.yaml --config examples/ppo/ppo.yaml \\
        --policy runs/quickstart/sft/policy --trainer.default_root_dir runs/ppo

On the built-in arithmetic the value model explains nothing within a run: from the outcomes of 80 steps it would have to
learn to check sums. Trained over and over on the 2,880 rollouts of 45 steps (225 updates) it explains 0.20 of the
variance of the returns that it has seen, and -0.03 of those of new problems. PPO is then REINFORCE with a baseline.
"""

from examples.ppo.module import PPOConfig as PPOConfig
from examples.ppo.module import PPOModule as PPOModule
