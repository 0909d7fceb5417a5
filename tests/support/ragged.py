"""Ragged token rewards as the tensors that the core takes."""

import torch

from capo_lit.core.credit import advantages

NAN = float("nan")


def ragged(rows, fill=NAN):
    """Rows -> right-padded (n, t) values with garbage as padding, and their mask."""
    width = max(map(len, rows))
    values = torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.float32)
    return values, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


def advantages_of(rows, groups=None, estimator="token_pooled", **settings):
    """Advantages of ragged token rewards, all rows in one group unless `groups` labels them."""
    values, mask = ragged(rows)
    group = torch.zeros(len(rows), dtype=torch.long) if groups is None else torch.tensor(groups)
    return advantages(values, mask, group, estimator, **settings)
