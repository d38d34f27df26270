"""Keys do not show themselves, and the mask finds them in every spelling."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.secrets import Mask, Secret

KEY = 'sk-proj-a/b+c"d\\e-é-1234567890'


def test_a_secret_shows_itself_in_no_printed_form() -> None:
    """repr, str, format and the repr of whatever holds it show stars; only reveal gives the value."""

    @dataclass
    class Holder:
        key: Secret

    secret = Secret(KEY)

    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        repr(Holder(secret)),
        repr([secret]),
    ]

    assert not any("sk-proj" in text for text in shown)
    assert secret.reveal() == KEY
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        json.dumps({"error": {"message": f"bad key {KEY}"}}),
        json.dumps({"error": KEY}, ensure_ascii=False),
        json.dumps({"error": KEY}).replace("/", "\\/"),
        f"{KEY}{KEY}",
        "".join(f"&#{ord(character)};" for character in KEY),
        KEY.replace("/", "&#x2F;").replace("-", "&#45;"),
    ],
)
def test_a_key_is_masked_in_plain_text_and_in_json(text: str) -> None:
    """Raw, JSON-escaped to ASCII or not, with an escaped slash, and more than once."""
    mask = Mask([Secret(KEY)])

    masked = mask.mask(text)

    assert "sk-proj" not in masked
    assert "***" in masked


def test_masked_json_is_still_json() -> None:
    """The stars take the key's place inside the string and harm nothing around it."""
    text = json.dumps({"error": {"message": f"bad key {KEY}", "code": "invalid_api_key"}})

    masked = json.loads(Mask([KEY]).mask(text))

    assert masked == {"error": {"message": "bad key ***", "code": "invalid_api_key"}}


@pytest.mark.parametrize(
    "word", ["EMPTY", "none", "ollama", "lm-studio", "LM-Studio", "dummy", "sk-123", "", "not-needed"]
)
def test_placeholders_and_short_words_are_left_in_answers(word: str) -> None:
    """Local servers take any word as a key; masking such words would corrupt answers."""
    text = f"The answer {word} is EMPTY, none, ollama or lm-studio: not-needed."

    masked = Mask([word]).mask(text)

    assert masked == text


def test_a_key_that_begins_like_another_leaves_no_tail() -> None:
    """The longer key is masked whole, whatever the order in which they were given."""
    short, long = "sk-aaaaaaa", "sk-aaaaaaa-bbbbbbb"

    masked = Mask([short, long]).mask(f"{long} {short}")

    assert masked == "*** ***"


def test_text_without_keys_is_handed_back_as_it_is() -> None:
    """No copy is made of what holds no key."""
    text = "x" * 1000

    assert Mask([KEY]).mask(text) is text
    assert Mask().mask(text) is text


def test_white_space_around_a_key_does_not_hide_it() -> None:
    """A key read from a file with a line break is the same key without."""
    assert Mask([f" {KEY}\n"]).mask(f"<{KEY}>") == "<***>"


def test_the_mask_itself_shows_no_key() -> None:
    """Its repr counts, and no more."""
    assert "sk-proj" not in repr(Mask([KEY]))


@given(
    st.text(min_size=4).map(lambda text: "sk-" + text.strip()).filter(lambda key: len(key) >= 7 and "*" not in key),
    st.text(),
    st.text(),
)
def test_no_key_survives_in_any_surroundings(key: str, before: str, after: str) -> None:
    """Whatever the key and the text around it, the key is gone, raw and from a JSON string."""
    mask = Mask([key])

    # What surrounds a replaced key could spell it anew only with the stars in it.
    assert key not in mask.mask(f"{before}{key}{after}")
    assert json.dumps(key)[1:-1] not in mask.mask(json.dumps({"error": before + key + after}))
