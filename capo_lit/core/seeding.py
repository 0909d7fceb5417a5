"""Random numbers as a function of where they are used, never of what was drawn before."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed from (run seed, step, prompt, sample, critique) or any prefix of it.

    Engines and shufflers take their seeds from here and keep no state, so a run that was killed and resumed draws
    what the uninterrupted run drew.

    Args:
        parts: integers and strings, in a fixed order; `1` and `"1"` are different parts.

    Returns:
        An integer in [0, 2**63).
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
