"""Makes the batch API of a family, and tells which requests it takes."""

from __future__ import annotations

from llmbatch.core.calls import Request
from llmbatch.providers.batches.anthropic import AnthropicBatches
from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.families import BatchFamily
from llmbatch.providers.batches.gemini import GeminiBatches
from llmbatch.providers.batches.gemini_wire import gemini_obstacle
from llmbatch.providers.batches.mistral import MistralBatches
from llmbatch.providers.batches.openai_shape import OpenAIBatches
from llmbatch.providers.batches.port import BatchApi

__all__ = ["make_api", "obstacle_of"]


def make_api(control: Control, family: BatchFamily) -> BatchApi:
    """The batch API of *family*, over *control*."""
    if family.shape == "anthropic":
        return AnthropicBatches(control, family)
    if family.shape == "mistral":
        return MistralBatches(control, family)
    if family.shape == "gemini":
        return GeminiBatches(control, family)
    return OpenAIBatches(control, family)


def obstacle_of(family: BatchFamily, request: Request) -> str:
    """What keeps *request* out of a batch of *family*, such as ``tools``; empty: nothing.

    Gemini's have a format of their own.
    """
    return gemini_obstacle(request.body) if family.shape == "gemini" else ""
