"""What a run leaves behind, and its readers: records, curves, results, replay, inspection, viewer, report."""

from typing import TYPE_CHECKING

from capo_lit.core.lazy import lazy_names

if TYPE_CHECKING:
    from capo_lit.records.schema import read_records

__all__ = ["read_records"]
__getattr__, __dir__ = lazy_names(__name__, {"read_records": "capo_lit.records.schema"})
