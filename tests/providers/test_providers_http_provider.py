"""The caller over HTTP: who answers, where, with which key, and what comes of it."""

from __future__ import annotations

import gzip
import socket
from typing import Any

import pytest
from e2e_sick import whole
from http_raw_server import answering, raw_server

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import MalformedRowError, UsageError
from llmbatch.core.ports import first_request
from llmbatch.core.raw_json import split_object
from llmbatch.core.rows import Row
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings, Resolver

KEYS = {
    "OPENAI_API_KEY": "sk-openai-0123456789",
    "ANTHROPIC_API_KEY": "sk-ant-0123456789",
    "GROQ_API_KEY": "gsk-0123456789",
    "GEMINI_API_KEY": "AIza0123456789",
    "AZURE_OPENAI_API_KEY": "azure-0123456789",
    "MY_KEY": "mine-0123456789",
}

BATCH_ANTHROPIC = '{"params":{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}}'


class Nowhere:
    """A transport for tests that send nothing."""

    async def post(self, request: Request, *, timeout: float) -> Reply:
        raise AssertionError("nothing is sent here")

    async def aclose(self) -> None:
        return None


def a_row(text: str) -> Row:
    fields = split_object(text)
    assert fields is not None
    return Row(1, "0" * 16, '"row-1"', fields)


def a_caller(**settings: Any) -> HttpProvider:
    settings.setdefault("environ", KEYS)
    return HttpProvider(ProviderSettings(**settings), Nowhere())


def prepared(text: str = '{"prompt":"hi"}', **settings: Any) -> Request:
    return first_request(a_caller(**settings), a_row(text))


HI = '{"prompt":"hi"}'

URLS = [
    ({"model": "openai/gpt"}, HI, "https://api.openai.com/v1/chat/completions", "openai/gpt"),
    ({"model": "gpt"}, HI, "https://api.openai.com/v1/chat/completions", "openai/gpt"),
    ({"model": "gpt"}, '{"input":"hi"}', "https://api.openai.com/v1/responses", "openai/gpt"),
    ({}, '{"prompt":"hi","model":"gpt"}', "https://api.openai.com/v1/chat/completions", "openai/gpt"),
    ({}, '{"prompt":"hi","model":"meta-llama/x"}', "https://api.openai.com/v1/chat/completions", "openai/meta-llama/x"),
    ({"model": "anthropic/c"}, HI, "https://api.anthropic.com/v1/messages", "anthropic/c"),
    ({"model": "anthropic/c", "endpoint": "chat"}, HI, "https://api.anthropic.com/v1/chat/completions", "anthropic/c"),
    ({}, BATCH_ANTHROPIC, "https://api.anthropic.com/v1/messages", "anthropic/claude-haiku-4-5"),
    ({"model": "c", "endpoint": "messages"}, HI, "https://api.anthropic.com/v1/messages", "anthropic/c"),
    ({"model": "groq/x"}, HI, "https://api.groq.com/openai/v1/chat/completions", "groq/x"),
    ({"model": "groq/x"}, '{"prompt":"hi","model":"y"}', "https://api.groq.com/openai/v1/chat/completions", "groq/y"),
    (
        {"model": "groq/x"},
        '{"prompt":"hi","model":"openai/y"}',
        "https://api.openai.com/v1/chat/completions",
        "openai/y",
    ),
    (
        {"model": "gemini/flash"},
        HI,
        "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        "gemini/flash",
    ),
    ({"model": "x", "base_url": "http://localhost:8000"}, HI, "http://localhost:8000/v1/chat/completions", "x"),
    ({"model": "x", "base_url": "http://localhost:8000/v1/"}, HI, "http://localhost:8000/v1/chat/completions", "x"),
    ({"model": "x", "base_url": "http://h/api"}, HI, "http://h/api/chat/completions", "x"),
    ({"model": "x", "base_url": "http://[::1]:8000"}, HI, "http://[::1]:8000/v1/chat/completions", "x"),
    ({"model": "x", "base_url": "http://h/api"}, BATCH_ANTHROPIC, "http://h/api/v1/messages", "claude-haiku-4-5"),
    ({"model": "x", "base_url": "http://h/v1"}, BATCH_ANTHROPIC, "http://h/v1/messages", "claude-haiku-4-5"),
    ({"model": "anthropic/c", "base_url": "http://h/p"}, HI, "http://h/p/v1/messages", "anthropic/c"),
    ({"model": "x", "base_url": "http://h/v1?k=a%20b"}, HI, "http://h/v1/chat/completions?k=a%20b", "x"),
    ({"model": "openai/x", "base_url": "http://h/v1"}, HI, "http://h/v1/chat/completions", "openai/x"),
    (
        {"model": "x"},
        '{"body":{"model":"groq/y","input":1},"url":"/v1/embeddings"}',
        "https://api.groq.com/openai/v1/embeddings",
        "groq/y",
    ),
    ({"model": "x"}, '{"body":{"prompt":"p"}}', "https://api.openai.com/v1/completions", "openai/x"),
]


@pytest.mark.parametrize(("settings", "row", "url", "label"), URLS)
def test_row_and_settings_decide_url_and_label(settings: dict[str, Any], row: str, url: str, label: str) -> None:
    """The row's provider, the run's, the base URL, the row's format: in this order."""
    request = prepared(row, **settings)

    assert (request.url, request.route.label) == (url, label)


def test_provider_prefix_is_split_off_in_what_is_sent_but_never_in_a_batch_body() -> None:
    """A composed body has the provider's own name of the model; a batch body keeps its bytes."""
    batch = '{ "model":"groq/y" ,"messages":[]}'

    assert b'"model":"y"' in prepared('{"prompt":"hi","model":"groq/y"}').body
    assert b'"model":"meta-llama/y"' in prepared('{"prompt":"hi","model":"meta-llama/y"}').body
    assert prepared(f'{{"body":{batch},"url":"/v1/chat/completions"}}').body == batch.encode()


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ('{"messages":[ ], "n" :1.10}', b'{"model":"gpt","messages":[ ], "n" :1.10}'),
        ('{ "model": null, "messages":[]}', b'{"model":"gpt","messages":[]}'),
        ("{}", b'{"model":"gpt"}'),
    ],
)
def test_a_batch_body_without_a_model_was_sent_without_one_though_the_run_has_it(body: str, sent: bytes) -> None:
    """Mistral's batch rows name none: the run's is filled in, and the rest of the body stays."""
    request = prepared('{"custom_id":"a","body":' + body + "}", model="openai/gpt")

    assert (request.body, request.route.label) == (sent, "openai/gpt")


def test_a_batch_body_with_a_model_keeps_its_bytes() -> None:
    """Nothing is added to a body that is sent as it stands."""
    request = prepared('{"body":{"messages":[ ],"model":"own"}}', model="openai/gpt")

    assert request.body == b'{"messages":[ ],"model":"own"}'


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings", "/responses", "/completions"])
def test_batch_rows_of_azure_were_refused_for_their_url(path: str) -> None:
    """Their url has no version: it is in Azure's base URL."""
    request = prepared('{"custom_id":"a","url":"' + path + '","body":{"model":"m","input":"x","messages":[]}}')

    assert request.url == "https://api.openai.com/v1" + path


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rerank", "/v1/audio/transcriptions"])
@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "http://127.0.0.1:1/v1"])
def test_other_paths_of_batch_rows_pass_with_endpoint_raw_only(path: str, base: str) -> None:
    """VLLM's score and rerank: the body goes to that path as it is; without raw the error names --endpoint raw."""
    row = '{"custom_id":"a","url":"' + path + '","body":{"model":"m","query":"x"}}'

    request = prepared(row, base_url=base, endpoint="raw")

    assert (request.url, request.endpoint) == ("http://127.0.0.1:1" + path, "raw")
    assert request.body == b'{"model":"m","query":"x"}'
    with pytest.raises(MalformedRowError, match="--endpoint raw"):
        prepared(row, base_url=base)


@pytest.mark.parametrize(
    "url",
    ["https://evil.test/v1/x", "//evil.test/v1", "/v1/../admin", "/v2/x", "/v1/x?y=1", "/v1/x y", "/v1//x", "/v1/"],
)
def test_endpoint_raw_lets_no_row_choose_where_it_goes(url: str) -> None:
    """Only plain paths below /v1/."""
    with pytest.raises(MalformedRowError) as caught:
        prepared('{"url":"' + url + '","body":{"model":"m"}}', base_url="http://127.0.0.1:1", endpoint="raw")

    assert caught.value.code == "input_bad_url"


def test_endpoint_raw_takes_batch_rows_only() -> None:
    """A prompt has no path; a known path is sent as ever."""
    with pytest.raises(MalformedRowError, match="batch rows"):
        prepared('{"prompt":"a"}', model="openai/gpt", endpoint="raw")

    known = prepared('{"url":"/v1/embeddings","body":{"model":"m","input":"a"}}', endpoint="raw")
    assert known.endpoint == "embeddings"


AZURE = [
    ({}, '{"prompt":"hi"}', "/openai/v1/chat/completions"),
    ({}, '{"input":"hi"}', "/openai/v1/responses"),
    (
        {"AZURE_OPENAI_API_VERSION": "2024-10-21"},
        '{"prompt":"hi"}',
        "/openai/deployments/d/chat/completions?api-version=2024-10-21",
    ),
    ({"AZURE_OPENAI_API_VERSION": "2025-03-01"}, '{"input":"hi"}', "/openai/responses?api-version=2025-03-01"),
    (
        {"AZURE_OPENAI_API_VERSION": "v"},
        '{"prompt":"hi","model":"../../x?y"}',
        "/openai/deployments/..%2F..%2Fx%3Fy/chat/completions?api-version=v",
    ),
]


@pytest.mark.parametrize(("more", "row", "path"), AZURE)
def test_azure_speaks_v1_or_deployments(more: dict[str, Any], row: str, path: str) -> None:
    """Without an API version the v1 endpoint, with one the deployment's path; a model cannot leave its segment."""
    environ = {**KEYS, "AZURE_OPENAI_ENDPOINT": "https://n.openai.azure.com/", **more}

    request = prepared(row, model="azure/d", environ=environ)

    assert request.url == "https://n.openai.azure.com" + path
    assert request.headers["api-key"] == KEYS["AZURE_OPENAI_API_KEY"]
    assert "Authorization" not in request.headers


def test_azure_deployment_of_dots_is_malformed() -> None:
    """A path segment of dots would climb."""
    environ = {**KEYS, "AZURE_OPENAI_ENDPOINT": "https://n.openai.azure.com", "AZURE_OPENAI_API_VERSION": "v"}

    with pytest.raises(MalformedRowError):
        prepared('{"prompt":"hi","model":".."}', model="azure/d", environ=environ)


def sent_keys(request: Request) -> set[str]:
    values = set(request.headers.values())
    return {name for name, key in KEYS.items() if key in values or f"Bearer {key}" in values}


KEY_RULES = [
    ({"model": "openai/x"}, "{}", {"OPENAI_API_KEY"}),
    ({"model": "anthropic/x"}, "{}", {"ANTHROPIC_API_KEY"}),
    ({"model": "openai/x", "api_key_env": "MY_KEY"}, "{}", {"MY_KEY"}),
    ({"model": "openai/x", "base_url": "http://h"}, "{}", {"OPENAI_API_KEY"}),
    ({"model": "x", "base_url": "http://h"}, "{}", set()),
    ({"model": "x", "base_url": "http://h", "api_key_env": "MY_KEY"}, "{}", {"MY_KEY"}),
    ({"model": "openai/x", "base_url": "http://h"}, '{"model":"anthropic/y"}', {"OPENAI_API_KEY"}),
    ({"model": "x", "base_url": "http://h"}, '{"model":"openai/y"}', set()),
    ({"model": "openai/x", "api_key_env": "MY_KEY"}, '{"model":"groq/y"}', {"GROQ_API_KEY"}),
    ({"model": "openai/x", "api_key_env": "MY_KEY"}, '{"model":"y"}', {"MY_KEY"}),
    ({"api_key_env": "MY_KEY"}, '{"model":"groq/y"}', {"MY_KEY"}),
    ({"model": "sim/x", "sim_url": lambda: "http://127.0.0.1:1"}, "{}", set()),
]


@pytest.mark.parametrize(("settings", "row", "keys"), KEY_RULES)
def test_key_goes_where_the_command_line_sends_it(
    settings: dict[str, Any], row: str, keys: set[Any] | set[str]
) -> None:
    """One key at most, and a row never decides which one goes to --base-url."""
    text = '{"prompt":"hi"' + ("," + row[1:] if row != "{}" else "}")

    assert sent_keys(prepared(text, **settings)) == keys


def test_each_format_has_its_headers() -> None:
    """OpenAI's take a bearer; Anthropic's a header of their own and a version; none asks for compression."""
    chat = prepared(model="openai/x").headers
    messages = prepared(model="anthropic/x").headers
    compatible = prepared(model="anthropic/x", endpoint="chat").headers

    assert chat["Authorization"] == f"Bearer {KEYS['OPENAI_API_KEY']}"
    assert chat["Content-Type"] == "application/json"
    assert chat["Accept-Encoding"] == "identity"
    assert (messages["x-api-key"], messages["anthropic-version"]) == (KEYS["ANTHROPIC_API_KEY"], "2023-06-01")
    assert "Authorization" not in messages
    assert compatible["Authorization"] == f"Bearer {KEYS['ANTHROPIC_API_KEY']}"


def test_base_url_comes_from_the_providers_variable_and_then_needs_no_key() -> None:
    """OPENAI_BASE_URL moves openai alone; a server of one's own may want no key."""
    environ = {"OPENAI_BASE_URL": "http://localhost:8000/v1", "GROQ_API_KEY": "g"}

    assert prepared(model="openai/x", environ=environ).url == "http://localhost:8000/v1/chat/completions"
    assert prepared(model="groq/x", environ=environ).url.startswith("https://api.groq.com/")


def test_sim_is_asked_for_its_url_once_and_ignores_base_url() -> None:
    """The simulated provider starts when a row needs it, and only then."""
    asked: list[int] = []

    def start() -> str:
        asked.append(1)
        return "http://127.0.0.1:9"

    provider = a_caller(model="sim/x", base_url="http://h", sim_url=start)

    started_early = bool(asked)
    urls = {first_request(provider, a_row(f'{{"prompt":"hi","model":"sim/m{n}"}}')).url for n in range(3)}

    assert (started_early, len(asked)) == (False, 1)
    assert urls == {"http://127.0.0.1:9/v1/chat/completions"}


def test_routes_of_one_key_share_an_account() -> None:
    """Two models behind one key are two circuits and one account; another key or server is another account."""
    provider = a_caller(model="openai/a")
    first, second, other = (
        first_request(provider, a_row(f'{{"prompt":"hi","model":"{model}"}}')).route for model in ("a", "b", "groq/a")
    )

    assert first != second
    assert first.account == second.account != other.account
    assert prepared(model="openai/a", api_key_env="MY_KEY").route.account != first.account
    assert not any(key in repr((first, second, other)) for key in KEYS.values())


USAGE = [
    ({}, '{"prompt":"hi"}', "no model"),
    ({"model": "openai/"}, '{"prompt":"hi"}', "no model"),
    ({"model": "openai/x", "environ": {}}, '{"prompt":"hi"}', "no API key: OPENAI_API_KEY is not set"),
    ({"model": "openai/x", "environ": {"OPENAI_API_KEY": " "}}, '{"prompt":"hi"}', "OPENAI_API_KEY is not set"),
    ({"model": "x", "base_url": "http://h", "api_key_env": "NONE"}, '{"prompt":"hi"}', "NONE is not set"),
    ({"model": "azure/x"}, '{"prompt":"hi"}', "AZURE_OPENAI_ENDPOINT is not set"),
    ({"model": "sim/x"}, '{"prompt":"hi"}', "no simulated provider"),
    ({"model": "openai/x", "environ": {**KEYS, "OPENAI_BASE_URL": "localhost"}}, '{"prompt":"hi"}', "OPENAI_BASE_URL"),
]


@pytest.mark.parametrize(("settings", "row", "words"), USAGE)
def test_what_is_missing_is_told_before_anything_is_sent(settings: dict[str, Any], row: str, words: str) -> None:
    """No model, no key, no URL: a usage error that says which."""
    provider = a_caller(**settings)

    with pytest.raises(UsageError, match=words) as caught:
        provider.routes(a_row(row))

    assert caught.value.hint


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-secret\r\nX: y", "sk-secret…", "sk-ключ-secret", "sk\x00secret"])
def test_key_that_can_be_no_header_is_refused_and_not_shown(key: str) -> None:
    """A pasted line break or dots of a hidden key: a usage error that names the variable alone."""
    with pytest.raises(UsageError) as caught:
        prepared(model="openai/x", environ={"OPENAI_API_KEY": key})

    said = f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert "OPENAI_API_KEY" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "file:///etc/passwd",
        "http://user:secret@host/v1",
        "http://secret@host/v1",
        "http://host:99999/v1",
        "http://ho st/v1",
        "http://host/v1\nX: y",
    ],
)
def test_base_url_that_is_none_is_refused_and_not_shown(url: str) -> None:
    """Only http and https, and no key in it."""
    with pytest.raises(UsageError) as caught:
        ProviderSettings(model="x", base_url=url)

    assert "secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "params", [{"stream": "true"}, {"headers": "{}"}, {"api_key": '"x"'}, {"model": '"x"'}, {"seed": "{"}, {"a": "NaN"}]
)
def test_parameters_that_cannot_be_meant_are_refused(params: dict[str, str]) -> None:
    """Streams, headers, keys and broken JSON are told at once."""
    with pytest.raises(UsageError):
        ProviderSettings(model="x", params=params)


def test_unknown_endpoint_is_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(UsageError, match="chat, responses, embeddings, completions, messages"):
        ProviderSettings(model="x", endpoint="audio")  # type: ignore[arg-type]


def test_nothing_shows_a_key() -> None:
    """Settings, requests and routes can be logged."""
    provider = a_caller(model="openai/x")

    request = first_request(provider, a_row('{"prompt":"hi"}'))
    shown = repr((provider, provider._connection, provider._resolver, request))

    assert not any(key in shown for key in KEYS.values())


@pytest.mark.parametrize(
    ("row", "extra"),
    [
        ('{"prompt":"hi"}', 256),
        ('{"prompt":"hi","max_tokens":7}', 7),
        ('{"prompt":"hi","max_completion_tokens":8}', 8),
        ('{"input":"hi","max_output_tokens":9}', 9),
        ('{"prompt":"hi","max_tokens":null}', 256),
        ('{"prompt":"hi","max_tokens":123456789012345678901234567890}', 256),
        ('{"body":{"messages":[],"max_tokens":5}}', 5),
        ('{"input":"hi","model":"text-embedding-3-small"}', 0),
    ],
)
def test_tokens_are_estimated_from_the_body_and_the_rows_limit(row: str, extra: int) -> None:
    """Four bytes a token, and what the model may write; embeddings write nothing."""
    request = prepared(row, model="openai/x")

    assert request.tokens == len(request.body) // 4 + extra


def test_canary_goes_where_its_row_went() -> None:
    """Same URL, headers and route, a small body."""
    provider = a_caller(model="openai/x")
    request = first_request(provider, a_row('{"prompt":"long","max_tokens":500}'))

    canary = provider.ping(request)

    assert canary is not None
    assert (canary.url, canary.headers, canary.route) == (request.url, request.headers, request.route)
    assert canary.body == b'{"model":"x","messages":[{"role":"user","content":"ping"}],"max_tokens":1}'
    assert canary.tokens < request.tokens


@pytest.mark.slow  # thousands of models
def test_any_number_of_models_is_served() -> None:
    """Rows may name thousands of models; what is remembered of them is bounded."""
    provider = a_caller()

    labels = [first_request(provider, a_row(f'{{"prompt":"hi","model":"m{n}"}}')).route.label for n in range(5000)]

    assert labels == [f"openai/m{n}" for n in range(5000)]
    assert len(provider._resolver._targets) <= 4096


ENDS = [
    (whole(), "success", 200),
    (whole(b'{"error":{"message":"slow down"}}', status="429 Too Many"), "throttled", 429),
    (whole(b"<html>oops</html>", status="502 Bad Gateway"), "failure", 502),
    (whole(b"", status="307 Moved", headers=b"Location: http://127.0.0.1:1/\r\n"), "account_refused", 307),
    (whole(gzip.compress(b'{"choices":[]}')[:-4], headers=b"Content-Encoding: gzip\r\n"), "failure", None),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n{}", "failure", None),
    (b"garbage\r\n\r\n", "failure", None),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "failure", None),
    (b"", "failure", None),
]


@pytest.mark.parametrize(("answer", "verdict", "status"), ENDS)
async def test_answer_is_judged_end_to_end(answer: bytes, verdict: str, status: int | None) -> None:
    """From the row over a real socket to the verdict; nothing raises and no key is said."""
    async with raw_server(answering(answer)) as server:
        provider = HttpProvider.over_http(ProviderSettings(model="openai/x", base_url=server.url, environ=KEYS))
        request = first_request(provider, a_row('{"prompt":"hi"}'))
        outcome = await provider.call(request, None, timeout=5)
        await provider.aclose()

    assert (outcome.verdict, outcome.status) == (verdict, status)
    assert len(server.requests) == 1
    assert KEYS["OPENAI_API_KEY"] not in repr(outcome) + str(outcome.body)


async def test_unreachable_provider_is_a_failure_without_a_connection() -> None:
    """Refused connections count against the route and cost nothing."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    provider = HttpProvider.over_http(ProviderSettings(model="x", base_url=f"http://127.0.0.1:{port}", environ={}))

    outcome = await provider.call(first_request(provider, a_row('{"prompt":"hi"}')), None, timeout=5)
    await provider.aclose()

    assert (outcome.verdict, outcome.unreachable) == ("failure", True)


async def test_key_that_the_provider_echoes_is_masked() -> None:
    """Error bodies like to quote the key; the result must not, whichever of the known keys it is."""
    body = b'{"error":{"message":"Incorrect API key provided: %s","code":"invalid_api_key"}}' % KEYS["MY_KEY"].encode()
    async with raw_server(answering(whole(body, status="401 Unauthorized"))) as server:
        settings = ProviderSettings(model="x", base_url=server.url, api_key_env="MY_KEY", environ=KEYS)
        provider = HttpProvider.over_http(settings)
        outcome = await provider.call(first_request(provider, a_row('{"prompt":"hi"}')), None, timeout=5)
        await provider.aclose()

    assert (outcome.verdict, outcome.key_refused) == ("account_refused", True)
    assert KEYS["MY_KEY"] not in f"{outcome} {outcome.body} {outcome.message}"


def test_distinct_models_share_their_headers() -> None:
    """Rows may name any number of models: what the transport prepares for headers is prepared once for all."""
    resolver = Resolver(ProviderSettings(model="openai/m", environ=KEYS))

    targets = [resolver.target(f'"model-{number}"', None, anthropic=False) for number in range(3000)]

    assert len({id(target.headers) for target in targets}) == 1
    assert len({id(target.headers) for target in [*targets, resolver.target(None, "responses", anthropic=False)]}) <= 2
    assert len(resolver._targets) <= 1024
