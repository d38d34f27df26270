"""Prompts never go to the wrong company: names without a provider, misspelt ones, and those of other tools."""

from __future__ import annotations

from typing import Any

import pytest

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import MalformedRowError, UsageError
from llmbatch.core.ports import first_request
from llmbatch.core.raw_json import dumps, split_object
from llmbatch.core.rows import Row
from llmbatch.providers.catalog import PROVIDERS
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.misnamed import find_misnamed
from llmbatch.providers.resolve import ProviderSettings

KEYS = {name: f"key-{name}-0123456789" for p in PROVIDERS.values() if (name := p.key_env)}


class Nowhere:
    """A transport for tests that send nothing."""

    async def post(self, request: Request, *, timeout: float) -> Reply:
        raise AssertionError("nothing is sent here")

    async def aclose(self) -> None:
        return None


def prepared(row_model: str | None = None, *, environ: dict[str, str] | None = None, **settings: Any) -> Request:
    provider = HttpProvider(ProviderSettings(environ=KEYS if environ is None else environ, **settings), Nowhere())
    text = '{"prompt":"hi"' + ("}" if row_model is None else f',"model":{dumps(row_model)}}}')
    fields = split_object(text)
    assert fields is not None
    return first_request(provider, Row(1, "0" * 16, '"row-1"', fields))


WRONG = [
    ("opneai/gpt-5-mini", "did you mean openai/gpt-5-mini?"),
    ("OpenAI/gpt-5-mini", "did you mean openai/gpt-5-mini?"),
    ("antropic/claude-haiku-4-5", "did you mean anthropic/claude-haiku-4-5?"),
    ("x-ai/grok-4", "did you mean xai/grok-4?"),
    ("google/gemini-2.5-pro", "did you mean gemini/gemini-2.5-pro?"),
    ("vertex_ai/gemini-2.5-pro", "did you mean gemini/gemini-2.5-pro?"),
    ("together_ai/x/y", "did you mean together/x/y?"),
    ("hosted_vllm/my-model", "did you mean vllm/my-model?"),
    ("bedrock/anthropic.claude-3", "--base-url"),
    ("cohere/command-r", "--base-url"),
    ("github/gpt-5-mini", "retired on 30 July 2026"),
    ("gemini-2.5-pro", "did you mean gemini/gemini-2.5-pro?"),
    ("grok-4", "did you mean xai/grok-4?"),
    ("mistral-small-latest", "did you mean mistral/mistral-small-latest?"),
    ("deepseek-chat", "did you mean deepseek/deepseek-chat?"),
    ("claude-sonnet-5", "did you mean anthropic/claude-sonnet-5?"),
    ("llama3.2", "ollama/"),
    ("anthropic:claude-sonnet-5", "did you mean anthropic/claude-sonnet-5?"),
    ("google-genai:gemini-2.5-pro", "did you mean gemini/gemini-2.5-pro?"),
    ("openai:gpt-5-mini", "did you mean openai/gpt-5-mini?"),
    ("bedrock:amazon.nova-pro", "--base-url"),
    ("us.anthropic.claude-sonnet-5-v1:0", "--base-url"),
    ("amazon.nova-pro-v1:0", "--base-url"),
    ("models/gemini-2.5-pro", "did you mean gemini/gemini-2.5-pro?"),
    ("./models/mine.gguf", "llama-server"),
    ("/srv/models/mine", "llama-server"),
    ("Qwen3-8B", "--base-url"),
]


@pytest.mark.parametrize(("name", "hint"), WRONG)
def test_a_model_of_another_company_is_not_sent_to_openai(name: str, hint: str) -> None:
    """Not as the run's model and not as a row's: the hint has what was meant, how to force it, and who is known."""
    with pytest.raises(UsageError) as run:
        prepared(model=name)
    with pytest.raises(MalformedRowError) as row:
        prepared(name)

    assert name in run.value.message
    assert hint in run.value.hint
    assert f"openai/{name}" in run.value.hint
    assert "known providers: openai, anthropic, gemini" in run.value.hint
    assert (row.value.code, hint in str(row.value)) == ("input_unknown_provider", True)


@pytest.mark.parametrize(("name", "hint"), WRONG)
def test_a_foreign_name_can_be_forced(name: str, hint: str) -> None:
    """The provider before it takes it whole."""
    assert prepared(model=f"openai/{name}").route.label == f"openai/{name}"
    assert prepared(f"openai/{name}").route.label == f"openai/{name}"


@pytest.mark.parametrize(("name", "hint"), WRONG)
def test_a_gateway_and_a_host_of_many_take_every_name(name: str, hint: str) -> None:
    """With a base URL, by flag or variable, and at providers that serve other makers' models."""
    gateway = KEYS | {"OPENAI_BASE_URL": "http://localhost:4000/v1"}

    assert prepared(model=name, base_url="http://localhost:8000/v1").route.label == name
    assert prepared(model=name, environ=gateway).route.label == f"openai/{name}"
    assert prepared(name, model="openrouter/x").route.label == f"openrouter/{name}"
    assert prepared(name, model="azure/x", environ=KEYS | {"AZURE_OPENAI_ENDPOINT": "https://me.openai.azure.com"})


@pytest.mark.parametrize(
    "name",
    [
        "gpt-5-mini",
        "gpt-4o",
        "o3-mini",
        "text-embedding-3-small",
        "ft:gpt-4o-mini:me::1",
        "my-model",
        "omni-moderation",
        "mine:latest",
        "my.own.model",
        "v1.2",
    ],
)
def test_openais_own_names_need_no_provider(name: str) -> None:
    """Nor do names that say nothing."""
    assert prepared(model=name).route.label == f"openai/{name}"
    assert prepared(name).route.label == f"openai/{name}"


def test_no_providers_own_example_is_taken_for_anothers() -> None:
    """What the hints recommend is right where it is recommended."""
    for provider in PROVIDERS.values():
        if provider.own_models_only:
            assert find_misnamed(provider.example, provider, is_rows=False) is None


def test_claude_without_a_provider_is_anthropics_where_the_format_is() -> None:
    """The format of the row says it."""
    assert prepared(model="claude-sonnet-5", endpoint="messages").route.label == "anthropic/claude-sonnet-5"


def test_a_hosted_model_needs_a_host_in_the_command() -> None:
    """``-m meta-llama/…`` alone would go to OpenAI; a row's name is sent whole to the provider of the command."""
    name = "meta-llama/Llama-3.3-70B-Instruct"

    with pytest.raises(UsageError) as caught:
        prepared(model=name)

    assert f"together/{name}" in caught.value.hint
    assert prepared(name, model="together/x").route.label == f"together/{name}"
    assert prepared(model=name, base_url="http://localhost:8000").route.label == name


@pytest.mark.parametrize(
    ("name", "example"),
    [("openai", "openai/gpt-5-mini"), ("ollama", "ollama/"), ("xai/", "xai/"), ("openai//", "openai/")],
)
def test_a_provider_alone_is_no_model(name: str, example: str) -> None:
    """The hint has an example; a server of one's own may well call a model that."""
    with pytest.raises(UsageError, match="no model") as caught:
        prepared(model=name)

    assert example in caught.value.hint
    if "/" not in name:
        assert prepared(model=name, base_url="http://h").route.label == name


def test_a_rows_model_that_is_a_provider_alone_is_malformed() -> None:
    """The others go on."""
    with pytest.raises(MalformedRowError, match="no model"):
        prepared("openai")


def test_a_misspelt_scenario_is_not_answered_as_steady() -> None:
    """The hint lists what there is, and says what was meant."""
    sim: dict[str, Any] = {"sim_url": lambda: "http://127.0.0.1:1", "sim_scenarios": lambda: ("steady", "outage")}

    with pytest.raises(UsageError) as caught:
        prepared(model="sim/stedy", **sim)

    assert "did you mean sim/steady? there are steady, outage" in caught.value.hint
    assert prepared(model="sim/outage", **sim).route.label == "sim/outage"


@pytest.mark.parametrize("name", ["foo", "mine", "", " ", "gpt-5-mini", "x" * 300, "no\nsuch", "Straße"])
def test_any_other_name_of_a_scenario_was_answered_as_steady(name: str) -> None:
    """As the run's model and as a row's; a simulated provider of one's own takes every name."""
    sim: dict[str, Any] = {"sim_url": lambda: "http://127.0.0.1:1"}
    known = sim | {"sim_scenarios": lambda: ("steady", "outage", "s1-flash")}

    with pytest.raises(UsageError) as caught:
        prepared(model=f"sim/{name}", **known)
    with pytest.raises(MalformedRowError) as row:
        prepared(f"sim/{name}", **known)

    if name.strip():
        assert "there are steady, outage, s1-flash" in caught.value.hint
        assert "did you mean" not in caught.value.hint
        assert row.value.code == "input_unknown_provider"
        assert prepared(model=f"sim/{name}", **sim).route.label == f"sim/{name}"


def test_the_short_name_of_a_scenario_is_no_model() -> None:
    """``sim serve --scenario s1`` takes it; the hint has the whole name."""
    sim: dict[str, Any] = {
        "sim_url": lambda: "http://127.0.0.1:1",
        "sim_scenarios": lambda: ("steady", "s1-flash", "s10-disguised"),
    }

    with pytest.raises(UsageError) as caught:
        prepared(model="sim/s1", **sim)

    assert "did you mean sim/s1-flash?" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "environ", "url"),
    [
        ("xai/grok-4", {}, "https://api.x.ai/v1/chat/completions"),
        ("fireworks/accounts/x/models/y", {}, "https://api.fireworks.ai/inference/v1/chat/completions"),
        ("deepinfra/a/b", {}, "https://api.deepinfra.com/v1/openai/chat/completions"),
        ("cerebras/gpt-oss-120b", {}, "https://api.cerebras.ai/v1/chat/completions"),
        ("nebius/a/b", {}, "https://api.tokenfactory.nebius.com/v1/chat/completions"),
        ("huggingface/a/b:c", {}, "https://router.huggingface.co/v1/chat/completions"),
        ("nvidia/meta/x", {}, "https://integrate.api.nvidia.com/v1/chat/completions"),
        ("perplexity/perplexity/sonar", {}, "https://api.perplexity.ai/v1/responses"),
        ("sambanova/x", {}, "https://api.sambanova.ai/v1/chat/completions"),
        (
            "databricks/x",
            {"DATABRICKS_HOST": "https://me.cloud.databricks.com/"},
            "https://me.cloud.databricks.com/serving-endpoints/chat/completions",
        ),
        (
            "databricks/x",
            {"DATABRICKS_HOST": "me.cloud.databricks.com"},
            "https://me.cloud.databricks.com/serving-endpoints/chat/completions",
        ),
        (
            "cloudflare/@cf/meta/x",
            {"CLOUDFLARE_ACCOUNT_ID": "abc/1"},
            "https://api.cloudflare.com/client/v4/accounts/abc%2F1/ai/v1/chat/completions",
        ),
    ],
)
def test_providers_of_the_table_are_reached(name: str, environ: dict[str, Any], url: str) -> None:
    """At their address, with their key as a bearer."""
    request = prepared(model=name, environ=KEYS | environ)
    provider = PROVIDERS[name.partition("/")[0]]

    assert request.url == url
    assert request.headers["Authorization"] == f"Bearer {KEYS[provider.key_env]}"


@pytest.mark.parametrize(("name", "port"), [("ollama", 11434), ("vllm", 8000), ("lmstudio", 1234), ("llamacpp", 8080)])
def test_servers_on_this_machine_need_no_key(name: str, port: int) -> None:
    """They are found at their usual port; a key is sent where one is named."""
    bare = prepared(model=f"{name}/x", environ={})
    keyed = prepared(model=f"{name}/x", environ={"MY_KEY": "k-0123456789"}, api_key_env="MY_KEY")

    assert bare.url == f"http://localhost:{port}/v1/chat/completions"
    assert "Authorization" not in bare.headers
    assert keyed.headers["Authorization"] == "Bearer k-0123456789"


@pytest.mark.parametrize(
    ("name", "missing"), [("cloudflare/x", "CLOUDFLARE_ACCOUNT_ID"), ("databricks/x", "DATABRICKS_HOST")]
)
def test_what_is_missing_of_an_address_is_named(name: str, missing: str) -> None:
    """The variable, and how to set it."""
    with pytest.raises(UsageError, match=missing) as caught:
        prepared(model=name)

    assert f"export {missing}=" in caught.value.hint


def test_googles_own_variable_holds_the_key_of_gemini() -> None:
    """``GOOGLE_API_KEY``, as Google's tools have it; ``GEMINI_API_KEY`` wins."""
    google = prepared(model="gemini/x", environ={"GOOGLE_API_KEY": "google-0123456789"})
    both = prepared(model="gemini/x", environ={"GOOGLE_API_KEY": "google-0123456789", "GEMINI_API_KEY": "own-0123456"})

    assert google.headers["Authorization"] == "Bearer google-0123456789"
    assert both.headers["Authorization"] == "Bearer own-0123456"


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/chat/completions/", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/responses", "http://h:1/v1/responses"),
        ("http://h:1/v1/messages", "http://h:1/v1/messages"),
        ("http://h:1/v1/completions?k=v", "http://h:1/v1/completions?k=v"),
        ("http://h:1/api/v2/embeddings", "http://h:1/api/v2/embeddings"),
    ],
)
def test_the_url_of_an_endpoint_is_no_base_url_to_be_doubled(base_url: str, url: str) -> None:
    """It is understood, and says which format rows take that leave the choice."""
    assert prepared(model="x", base_url=base_url).url == url


def test_a_row_has_its_own_format_whatever_endpoint_the_base_url_names() -> None:
    """An embedding does not go to the chat endpoint."""
    provider = HttpProvider(
        ProviderSettings(model="embed-1", base_url="http://h:1/v1/chat/completions", environ={}), Nowhere()
    )

    request = first_request(provider, Row(1, "0" * 16, '"row-1"', {"input": '"hi"'}))

    assert request.url == "http://h:1/v1/embeddings"
