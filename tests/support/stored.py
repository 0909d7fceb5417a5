"""A reply to put into a critique store, by number."""

from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Request
from capo_lit.genprm.store import StoredReply, StoreKey


def item(number: int, reply: str = "") -> tuple[StoreKey, Request, StoredReply]:
    messages = ({"role": "user", "content": f"problem {number}"},)
    key = StoreKey("judge", messages, Sampling(), number, "nonce")
    return key, Request(str(number), messages, Sampling(), number), StoredReply(reply or f"{number}", "stop", 7, 3, 0.5)
