"""Generate the content of a simulated answer: filler prose about the prompt's words, JSON that fits a schema, vectors.

Depends only on the seed and the request, so that the same request gets the same answer in any order, at any time.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from random import Random

from llmbatch.core.raw_json import JSON, dumps
from llmbatch.sim.request import SimRequest, count_tokens
from llmbatch.sim.schema import fit_schema

__all__ = ["AnswerText", "embed", "write_answer"]

_WORD = re.compile(r"[^\W\d_]{4,}")
_COMMON = frozenset(
    _WORD.findall("""
    about after also answer been before briefly could does each every explain from give have into just list make more
    most name only other over please should some tell than that their them then there these they this those three what
    when where which while will with word words would write your
    """)
)
_NEUTRAL = ("method", "context", "detail", "evidence", "practice", "history", "structure", "balance")
_SENTENCES = (
    "In short, {a} depends on {b}.",
    "The first thing to notice about {a} is how closely it follows {b}.",
    "Most people meet {a} through {b}, and only later ask why.",
    "Where {a} and {b} differ, the difference is mostly one of scale.",
    "A good example of {a} is easy to find: look at {b} over a longer time.",
    "None of this makes {b} less useful, but it does put {a} into proportion.",
    "Taken together, {a} and {b} explain the greater part of what we see.",
    "It helps to treat {a} as a question and {b} as a first answer.",
    "Anyone who has worked with {b} will recognise the pattern in {a}.",
    "Two points matter here: {a} comes early, and {b} stays.",
)


@dataclass(frozen=True, slots=True)
class AnswerText:
    """Content of an answer. ``tool`` names a called function, whose arguments ``text`` then holds as JSON.

    ``cut`` says that the request's token limit ended it, ``is_refusal`` that the model refuses, ``is_filtered`` that a
    filter took the answer away.
    """

    text: str
    output_tokens: int
    cut: bool = False
    tool: str | None = None
    is_refusal: bool = False
    is_filtered: bool = False


_REFUSAL = "I'm sorry, but I cannot help with that."


def write_answer(seed: int, request: SimRequest) -> AnswerText:
    """Answer *request*; the same for the same *seed*, model, prompt and demands."""
    # As bytes, because a prompt may hold lone surrogates.
    chance = Random(f"{seed}:text:{request.model}:{request.prompt}".encode(errors="surrogatepass"))
    if request.content == "refusal":
        return AnswerText(_REFUSAL, count_tokens(_REFUSAL), is_refusal=True)
    if request.content == "content_filter":
        return AnswerText("", 1, is_filtered=True)
    if request.tool is not None:
        text = dumps(_content(request, request.arguments, chance))
        return AnswerText(text, count_tokens(text), tool=request.tool)
    words = _key_words(request.prompt)
    if request.schema == {}:
        text = dumps({"answer": _prose(chance, words, 1), "topics": words[:3]})
    elif request.schema is not None:
        text = dumps(_content(request, request.schema, chance))
    else:
        text = _prose(chance, words, chance.randint(1, 5))
    if request.content == "fenced":
        text = f"Here is the JSON that you asked for:\n\n```json\n{text}\n```"
    return _within(text, request.max_tokens)


def _content(request: SimRequest, schema: JSON, chance: Random) -> JSON:
    """A value that fits *schema*; or does not, where the request is to be answered so."""
    value = fit_schema(schema, chance)
    if request.content != "misfit":
        return value
    required = schema.get("required") if isinstance(schema, dict) else None
    if isinstance(value, dict) and isinstance(required, list) and required:
        return {name: inner for name, inner in value.items() if name != required[0]}
    return [] if isinstance(value, dict) else {}


def _within(text: str, max_tokens: int | None) -> AnswerText:
    tokens = count_tokens(text)
    if max_tokens is None or tokens <= max_tokens:
        return AnswerText(text, tokens)
    return AnswerText(text[: 4 * max_tokens], max_tokens, cut=True)


def _key_words(prompt: str) -> list[str]:
    found = dict.fromkeys(word.lower() for word in _WORD.findall(prompt[:4000]))
    words = [word for word in found if word not in _COMMON][:8]
    return words if len(words) >= 3 else words + list(_NEUTRAL[: 3 - len(words)])


def _prose(chance: Random, words: list[str], sentences: int) -> str:
    written = []
    for sentence in chance.sample(_SENTENCES, sentences):
        a, b = chance.sample(words, 2)
        written.append(sentence.format(a=a, b=b))
    return " ".join(written)


def embed(seed: int, text: str, dimensions: int) -> list[float]:
    """A vector of length 1, determined by *seed* and *text*."""
    raw = hashlib.shake_256(f"{seed}:{text}".encode(errors="surrogatepass")).digest(2 * dimensions)
    # Half a step off zero, so that the vector has a direction even in one dimension.
    values = [int.from_bytes(raw[at : at + 2], "little") - 32767.5 for at in range(0, 2 * dimensions, 2)]
    norm = math.sqrt(sum(value * value for value in values))
    return [round(value / norm, 8) for value in values]
