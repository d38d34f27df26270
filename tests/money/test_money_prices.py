"""The price list and price files: which price a model has, and what is refused."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest

from llmbatch.core.calls import Usage, UsageDetails
from llmbatch.core.errors import UsageError
from llmbatch.money.prices import Prices
from llmbatch.money.text import usd

D = Decimal
MODELS = [
    *("openai/gpt-5-mini", "openai/gpt-5-mini-2025-08-07", "openai/gpt-5-mini-20250807", "openai/gpt-4o"),
    *("anthropic/claude-haiku-4-5", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-pro", "gemini/gemini-2.5-flash"),
    *("groq/llama-3.3-70b-versatile", "mistral/mistral-small-latest", "deepseek/deepseek-v3.2-exp", "xai/grok-4"),
    *("together/meta-llama/Llama-3.3-70B-Instruct-Turbo", "openrouter/openai/gpt-5-mini"),
]
THEIRS = {"gemini": "google", "xai": "x-ai"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tier", [None, "batch"])
def test_the_list_gives_the_costs_of_the_library_that_it_was_made_from(name: str, tier: str | None) -> None:
    """Random usage, with cached tokens and long prompts; a model without a batch price has an unknown cost there."""
    genai_prices = pytest.importorskip("genai_prices")
    provider, _, model = name.partition("/")
    chance = random.Random(name)
    prices = Prices()
    found = prices.of(name)
    assert found is not None
    if tier is not None and found.of(tier) is None:
        assert prices.cost(name, Usage(1, 1), tier) is None
        return

    for _ in range(20):
        sent, made = chance.choice([10, 3000, 250_000]), chance.randrange(5000)
        cached = chance.randrange(sent + 1)
        theirs = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=sent, output_tokens=made, cache_read_tokens=cached),
            model,
            provider_id=THEIRS.get(provider, provider),
            price_context=None if tier is None else {"processing": "batch"},
        )

        ours = prices.cost(name, Usage(sent, made, UsageDetails(cached_tokens=cached)), tier)

        assert ours == theirs.total_price


def test_a_model_that_the_list_does_not_have_has_no_price() -> None:
    """Nor one of another provider, nor a bare name; another provider's model is not that of one with the same name."""
    prices = Prices()

    for name in ("openai/gpt-99", "gpt-5-mini", "ollama/gpt-5-mini", "anthropic/gpt-5-mini", "", "/", "openai/"):
        assert prices.of(name) is None, name
        assert prices.cost(name, Usage(1, 1), None) is None, name


def test_flex_costs_half_where_the_list_says_so_or_the_provider_does() -> None:
    """OpenAI's by model, Gemini's half, Groq's the same; an unknown tier has an unknown cost."""
    prices, usage = Prices(), Usage(1_000_000, 0)

    for name, share in (("openai/gpt-5-mini", D("0.5")), ("gemini/gemini-2.5-flash", D("0.5"))):
        standard = prices.cost(name, usage, None)
        assert standard is not None
        assert prices.cost(name, usage, "flex") == standard * share
        assert prices.cost(name, usage, "standard") == standard
    assert prices.cost("groq/llama-3.3-70b-versatile", usage, "flex") == prices.cost(
        "groq/llama-3.3-70b-versatile", usage, None
    )
    assert prices.cost("openai/gpt-5-mini", usage, "scale") is None


def test_a_price_file_goes_before_the_list(tmp_path: Path) -> None:
    """An exact name wins over patterns, the first pattern over later ones; tiers have prices of their own."""
    path = tmp_path / "prices.toml"
    path.write_text(
        '\ufeff["my/*"]\ninput = 1\noutput = 2\n["my/large-?"]\ninput = 9\noutput = 9\n["my/small"]\ninput = 0.1\n'
        'output = 0.2\n["openai/gpt-5-mini"]\ninput = 7\noutput = 8\n'
        '["openai/gpt-5-mini".flex]\ninput = 3\noutput = 4\n'
    )

    prices = Prices.read(str(path))

    million = Usage(1_000_000, 0)
    assert prices.cost("my/large-1", million, None) == 1
    assert prices.cost("my/small", million, None) == D("0.1")
    assert prices.cost("openai/gpt-5-mini", million, None) == 7
    assert prices.cost("openai/gpt-5-mini", million, "flex") == 3
    assert prices.cost("openai/gpt-5-mini", million, "priority") is None, "the file is all that counts for its models"
    assert prices.cost("openai/gpt-5-nano", million, None) == D("0.05"), "others are in the list"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no prices"),
        ("input = 1\n", "input is not a table"),
        ('["a/b"]\n', '["a/b"] has no prices'),
        ('["a/b"]\ninput = "1"\n', "[\"a/b\"]: input is '1', must be a number"),
        ('["a/b"]\ninput = true\n', "input is True, must be a number"),
        ('["a/b"]\ninput = -0.5\n', "input is -0.5, must be between 0"),
        ('["a/b"]\ninput = nan\n', "must be between 0"),
        ('["a/b"]\ninput = inf\n', "must be between 0"),
        ('["a/b"]\ninput = 1\noutptu = 2\n', "'outptu', which is no price"),
        ('["a/b"]\ninput = 1\nflex = 2\n', '["a/b"].flex is not a table'),
        ('["a/b"]\ninput = 1\n["a/b".flex]\noutput = -2\n', '["a/b"].flex: output is -2'),
        ("[a/b]\ninput = 1\n", "is not TOML"),
        ("a,b,c\n1,2,3\n", "is not TOML"),
    ],
)
def test_a_price_file_that_is_none_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """The message names file, model and key."""
    path = tmp_path / "prices.toml"
    path.write_text(text)

    with pytest.raises(UsageError) as refused:
        Prices.read(str(path))

    assert told in refused.value.message
    assert str(path) in refused.value.message


@pytest.mark.parametrize("name", ["missing.toml", ".", "binary.toml"])
def test_a_price_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    """A missing file, a directory, bytes that are no text."""
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match="--prices"):
        Prices.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (D("3.12"), "US$ 3.12"),
        (D("1234.567"), "US$ 1,234.57"),
        (D("0.5"), "US$ 0.50"),
        (D("0.0312"), "US$ 0.031"),
        (D("0.00031"), "US$ 0.00031"),
        (D(0), "US$ 0.00"),
        (0.1, "US$ 0.10"),
    ],
)
def test_amounts_for_humans_have_two_digits_at_least(amount: D | float, text: str) -> None:
    """Small ones are not rounded to nothing."""
    assert usd(amount) == text
