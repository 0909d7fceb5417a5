"""Judges of steps: an LLM that critiques (GenPRM), or a rule that verifies steps of built-in tasks."""
