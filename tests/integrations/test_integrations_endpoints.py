"""Which circuit a request belongs to, and what its name may show."""

from __future__ import annotations

import json

import pytest

from llmbatch.integrations.endpoints import MAX_PARSED, endpoint_of, model_in_body


@pytest.mark.parametrize(
    ("scheme", "host", "port", "expected"),
    [
        ("https", "api.openai.com", None, "https://api.openai.com"),
        ("https", "API.OpenAI.com", 443, "https://api.openai.com"),
        ("http", "127.0.0.1", 8000, "http://127.0.0.1:8000"),
        ("http", "::1", 80, "http://[::1]"),
        ("https", "localhost", 80, "https://localhost:80"),
    ],
)
def test_the_origin_has_its_port_only_where_it_is_not_the_usual_one(
    scheme: str, host: str, port: int | None, expected: str
) -> None:
    assert str(endpoint_of(scheme, host, port, "/v1/models", None)) == expected


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1beta/models/gemini-3-pro:generateContent", "gemini-3-pro"),
        ("/v1/projects/p/locations/l/publishers/google/models/gemini-3:streamGenerateContent", "gemini-3"),
        ("/openai/deployments/my-gpt/chat/completions", "my-gpt"),
        ("/model/anthropic.claude-5-v1%3A0/invoke", "anthropic.claude-5-v1:0"),
        ("/v1/models/gpt-5", ""),
        ("/v1/chat/completions", ""),
    ],
)
def test_the_model_is_taken_from_the_path(path: str, model: str) -> None:
    """Of Gemini, Vertex AI, Azure and Bedrock."""
    assert endpoint_of("https", "host", None, path, None).model == model


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"messages":[],"model":"gpt-5"}', "gpt-5"),
        (b'{"metadata":{"model":"inner"},"input":"x"}', ""),
        ('{"model":"mistral-ü"}', "mistral-ü"),
        (b'{"model":5}', ""),
        (b'["model"]', ""),
        (b'{"model":', ""),
        (b"\xff\xfe{", ""),
        (b'--boundary\r\nname="model"', ""),
        (b"[" * 50_000, ""),
        (b"", ""),
        (None, ""),
    ],
)
def test_the_model_is_taken_from_a_json_body(body: bytes | str | None, model: str) -> None:
    """Only the member of the outermost object; anything else names none and raises nothing."""
    assert model_in_body(body) == model


def test_the_model_of_a_long_body_is_searched_for() -> None:
    """A body with an image is not parsed for it; words of a prompt cannot be taken for it."""
    image = "A" * MAX_PARSED
    prompt = '{"model":"not this"}'
    body = {"messages": [{"role": "user", "content": prompt}], "image": image, "model": "gpt-5"}
    assert model_in_body(json.dumps(body).encode()) == "gpt-5"
    assert model_in_body(json.dumps({**body, "metadata": {"model": "another"}}).encode()) == ""


def test_names_show_no_key_and_are_one_short_line() -> None:
    """What a caller puts into a model's name is shown in logs."""
    body = json.dumps({"model": "x\n\x1b[31m sk-abcdef0123456789 " + "y" * 500})
    name = str(endpoint_of("https", "host", None, "/chat?key=sk-abcdef0123456789", body))
    assert "sk-abcdef" not in name
    assert name.isprintable()
    assert len(name) < 130
