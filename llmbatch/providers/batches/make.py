"""Makes the batch API of a family."""

from __future__ import annotations

from llmbatch.providers.batches.anthropic import AnthropicBatches
from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.families import BatchFamily
from llmbatch.providers.batches.mistral import MistralBatches
from llmbatch.providers.batches.openai_shape import OpenAIBatches
from llmbatch.providers.batches.port import BatchApi

__all__ = ["make_api"]


def make_api(control: Control, family: BatchFamily) -> BatchApi:
    """The batch API of *family*, over *control*."""
    if family.shape == "anthropic":
        return AnthropicBatches(control, family)
    if family.shape == "mistral":
        return MistralBatches(control, family)
    return OpenAIBatches(control, family)
