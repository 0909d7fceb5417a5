"""Whether an answer is right: by rule, in worker processes that can be killed; and other sources of outcomes."""

from capo_lit.verifier.pool import Verifier

__all__ = ["Verifier"]
