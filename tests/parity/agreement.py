"""What "the same" means: one part in a million, in float32."""

import torch

TOLERANCE = 1e-6


def relative_gap(got: torch.Tensor, expected: torch.Tensor) -> float:
    """max |got - expected| / max |expected|, in float64."""
    scale = expected.abs().max().double().item()
    return (got.double() - expected.double()).abs().max().item() / scale


def assert_agree(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Every entry is the same to 1e-6 of itself, or to 1e-8 of the largest where terms have cancelled in it."""
    largest = expected.abs().max().item()
    assert 0 < largest < float("inf")
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=1e-8 * largest, check_dtype=False)


def assert_vectors_agree(got: torch.Tensor, expected: torch.Tensor) -> None:
    """|got - expected| <= 1e-6 |expected|, as vectors: for a whole gradient, whose entries are long sums in float32."""
    assert expected.norm() > 0
    assert (got - expected).norm() <= TOLERANCE * expected.norm()
