"""Rows on a Ray cluster (extra ``ray``): :func:`run` sends those of a file, :class:`LLMBatch` those of a data set."""

from __future__ import annotations

from llmbatch.runs.ray.llm_batch import LLMBatch
from llmbatch.runs.ray.start import run

__all__ = ["LLMBatch", "run"]
