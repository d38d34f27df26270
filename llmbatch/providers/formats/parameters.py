"""The request parameters of each endpoint, of OpenAI, Anthropic and the servers that are compatible with them.

Other rows than batch rows may have columns of the user's own (``label``, ``source``). Only parameters listed here or
set with ``-P`` are sent; other members are echoed in the result's metadata. A batch row's body is sent unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmbatch.core.calls import Endpoint
from llmbatch.core.raw_json import split_object
from llmbatch.providers.formats.bodies import to_bytes

__all__ = ["PARAMETERS", "echoed_metadata"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAMPLING = _names(
    "model temperature top_p top_k min_p top_a typical_p tfs seed stop stop_sequences stop_token_ids n best_of "
    "frequency_penalty presence_penalty repetition_penalty length_penalty repeat_penalty logit_bias logprobs "
    "top_logprobs prompt_logprobs max_tokens max_completion_tokens max_output_tokens min_tokens user stream "
    "stream_options service_tier store safety_identifier prompt_cache_key prompt_cache_retention "
    # vLLM, SGLang, llama.cpp, TGI
    "use_beam_search ignore_eos include_stop_str_in_output skip_special_tokens spaces_between_special_tokens "
    "truncate_prompt_tokens guided_json guided_regex guided_choice guided_grammar guided_decoding_backend "
    "guided_whitespace_pattern structured_outputs bad_words allowed_token_ids "
    "logits_processors lora_path adapter_id cache_prompt n_predict mirostat "
    "mirostat_tau mirostat_eta dynatemp_range dynatemp_exponent xtc_probability xtc_threshold dry_multiplier "
    "dry_base dry_allowed_length id_slot timings_per_token "
    # OpenRouter, Together, DeepSeek, Groq, Mistral, xAI, Perplexity, Fireworks, DashScope, Zhipu
    "provider models transforms plugins include_reasoning safety_model reasoning thinking enable_thinking "
    "thinking_budget reasoning_format safe_prompt random_seed prompt_truncate_len context_length_exceeded_behavior "
    "prediction search_parameters search_domain_filter search_recency_filter search_mode return_images "
    "return_related_questions web_search_options enable_search search_options extra_body"
)

_TOOLS = _names(
    "tools tool_choice parallel_tool_calls functions function_call response_format verbosity reasoning_effort"
)

PARAMETERS: Mapping[Endpoint, frozenset[str]] = {
    "chat": _SAMPLING
    | _TOOLS
    | _names(
        "messages system modalities audio chat_template chat_template_kwargs add_generation_prompt "
        "continue_final_message add_special_tokens echo mm_processor_kwargs return_token_ids "
        "return_tokens_as_token_ids cache_salt document_image_limit document_page_limit"
    ),
    "completions": _SAMPLING
    | _names("prompt suffix echo add_special_tokens response_format return_token_ids cache_salt"),
    "responses": _SAMPLING
    | _TOOLS
    | _names(
        "input prompt system instructions text include background conversation previous_response_id "
        "truncation max_tool_calls context_management"
    ),
    "embeddings": _names(
        "model input encoding_format dimensions user truncate truncate_prompt_tokens input_type "
        "task_type output_dtype output_dimension embedding_type late_chunking add_special_tokens "
        "query_instruction messages chat_template provider"
    ),
    "messages": _SAMPLING
    | _names(
        "messages system tools tool_choice thinking container mcp_servers context_management "
        "output_config output_format inference_geo cache_control betas anthropic_version anthropic_beta"
    ),
}
"""What is sent, for each endpoint, the member that holds the content among them."""


def echoed_metadata(metadata: str | None, members: Mapping[str, str]) -> str:
    """A row's *metadata* (JSON text) with *members* that are not sent; what it has already stays."""
    own: Mapping[str, str] = {}
    if metadata is not None and metadata != "null":
        found = split_object(metadata) if metadata.startswith("{") else None
        own = {"metadata": metadata} if found is None else found
    return to_bytes({**members, **own}).decode()
