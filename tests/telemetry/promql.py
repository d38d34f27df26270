"""Reads PromQL as far as a dashboard needs it: which metrics, matchers and grouping labels an expression names.

A tokenizer and a walk over the tokens; whatever it does not know is an error, so that a typo cannot pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Expression", "read"]

_TOKENS = re.compile(
    r"""(?P<space>\s+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>[0-9]+(?:\.[0-9]+)?(?![A-Za-z_0-9]))"""
    r"""|(?P<window>\[(?:[0-9]+[smhd]|\$__rate_interval)\])|(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)"""
    r"""|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/><=,(){}])"""
)
_FUNCTIONS = frozenset({"rate", "increase", "histogram_quantile", "time", "max", "sum", "topk"})
_AGGREGATES = frozenset({"sum", "max", "topk"})
_GROUPING = frozenset({"by", "without"})


@dataclass
class Expression:
    """What an expression names: metrics with their matchers (label, operator, value), and labels to group by."""

    metrics: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


def read(text: str) -> Expression:
    """Read *text*.

    Raises:
        ValueError: it has something that this reader does not know.
    """
    tokens = _tokens(text)
    found, at = Expression(), 0
    depth = 0
    while at < len(tokens):
        kind, word = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if kind == "name" and word in _GROUPING:
            labels, at = _list(tokens, at + 1)
            found.groups += labels
            continue
        if kind == "name" and (following == "(" or word in _AGGREGATES):
            if word not in _FUNCTIONS:
                raise ValueError(f"{word} is no function")
            if following != "(" and following not in _GROUPING:
                raise ValueError(f"{word} stands alone")
        elif kind == "name":
            matchers, at = _matchers(tokens, at + 1)
            found.metrics.append((word, matchers))
            continue
        elif kind == "sign" and word in "{}=":
            raise ValueError(f"{word} stands alone")
        depth += (word == "(") - (word == ")")
        if depth < 0:
            raise ValueError("a parenthesis is closed that is not open")
        at += 1
    if depth:
        raise ValueError("a parenthesis is not closed")
    return found


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise ValueError(f"not understood: {text[at : at + 20]!r}")
        if match.lastgroup != "space":
            tokens.append((str(match.lastgroup), match[0]))
        at = match.end()
    return tokens


def _matchers(tokens: list[tuple[str, str]], at: int) -> tuple[list[tuple[str, str, str]], int]:
    matchers: list[tuple[str, str, str]] = []
    if at >= len(tokens) or tokens[at][1] != "{":
        return matchers, at
    while tokens[at][1] != "}":
        parts = tokens[at + 1 : at + 4]
        if [kind for kind, _ in parts] != ["name", "sign", "string"]:
            raise ValueError("a matcher is not label, operator, string")
        label, operator, value = (word for _, word in parts)
        if operator not in ("=", "!=", "=~", "!~"):
            raise ValueError(f"{operator} is no operator of matchers")
        matchers.append((label, operator, value[1:-1]))
        at += 4
        if at >= len(tokens) or tokens[at][1] not in (",", "}"):
            raise ValueError("matchers are not closed")
    return matchers, at + 1


def _list(tokens: list[tuple[str, str]], at: int) -> tuple[list[str], int]:
    labels: list[str] = []
    if at >= len(tokens) or tokens[at][1] != "(":
        raise ValueError("labels to group by stand in parentheses")
    while tokens[at][1] != ")":
        if at + 2 >= len(tokens) or tokens[at + 1][0] != "name" or tokens[at + 2][1] not in (",", ")"):
            raise ValueError("labels to group by are names")
        labels.append(tokens[at + 1][1])
        at += 2
    return labels, at + 1
