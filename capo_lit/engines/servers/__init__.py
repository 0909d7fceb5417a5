"""Rollouts from vLLM servers of their own, whose weights follow the policy's."""

from capo_lit.engines.servers.engine import VLLMServers

__all__ = ["VLLMServers"]
