"""What a `capo fit` with vLLM imports on its way; tests.support.forked imports it once for many processes."""

from importlib import import_module

for name in (
    "capo_lit.cli.trainer",
    "capo_lit.arithmetic.judge",
    "capo_lit.engines.vllm",
    "capo_lit.genprm.judge",
    "capo_lit.records.inspect.record",
    "capo_lit.training.capo",
    "vllm.entrypoints.llm",
    "vllm.v1.worker.cpu_worker",
):
    import_module(name)
