"""Any OpenAI-compatible chat-completions server as an engine: `vllm serve`, hosted APIs, or several of them."""

from capo_lit.engines.http.engine import HTTPEngine

__all__ = ["HTTPEngine"]
