"""The paper's benchmarks as lm-eval tasks: one yaml file each; `rows` loads their data, `answers` judges."""
