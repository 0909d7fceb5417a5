"""capo_lit: Credit Assignment Policy Optimization on Lightning.

The map of the package is docs/architecture.md. Importing this module imports neither torch nor vllm.
"""

__version__ = "0.1.0"
