"""Makes the request that asks again in the same conversation: the answer that did not fit, then why. Pure.

An answer that is a tool call is followed by the result of that tool, as each wire format has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmbatch.core.calls import Outcome, Request
from llmbatch.core.raw_json import JSON, dumps, parse, split_array, split_object
from llmbatch.providers.formats.bodies import to_bytes
from llmbatch.providers.structured.schema import Misfit

__all__ = ["answer_text", "repair_request"]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an answer leaves to the next turn: its items as they came, and the tool calls among them.

    ``calls`` are pairs of id and arguments (JSON text).
    """

    items: tuple[JSON, ...]
    calls: tuple[tuple[str, str], ...]


def answer_text(outcome: Outcome, endpoint: str) -> str | None:
    """The text that the schema is about: that of the answer, or the arguments of its only tool call."""
    if outcome.text or outcome.body is None:
        return outcome.text
    answer = _tool_answer(outcome.body, endpoint)
    return answer.calls[0][1] if answer is not None and len(answer.calls) == 1 else outcome.text


def repair_request(request: Request, outcome: Outcome, misfit: Misfit, *, schema: str = "") -> Request | None:
    """The request that follows *request*, whose answer has *misfit*; None if its format has no way to ask again.

    *schema*: told to the model too, if it does not know it.
    """
    members = split_object(request.body.decode()) or {}
    complaint = _complaint(misfit.faults, schema)
    match request.endpoint:
        case "chat":
            is_asked = _extend(members, "messages", _chat_turns(outcome, complaint))
        case "messages":
            is_asked = _extend(members, "messages", _message_turns(outcome, complaint))
        case "responses":
            is_asked = _extend_input(members, outcome, complaint)
        case "completions":
            is_asked = _extend_prompt(members, outcome, complaint)
        case _:
            is_asked = False
    if not is_asked:
        return None
    body = to_bytes(members)
    return replace(
        request,
        body=body,
        tokens=request.tokens + max(0, len(body) - len(request.body)) // 4,
        follow_ups=request.follow_ups + 1,
        first=request.first or request,
    )


def _complaint(faults: Sequence[str], schema: str) -> str:
    listed = "\n".join(f"- {fault}" for fault in faults)
    told = f"\nThe JSON Schema:\n{schema}" if schema else ""
    return (
        f"That answer does not fit the JSON schema:\n{listed}\n"
        f"Answer again with the whole corrected JSON and nothing else.{told}"
    )


def _user(content: JSON) -> dict[str, JSON]:
    return {"role": "user", "content": content}


def _assistant(text: str) -> list[dict[str, JSON]]:
    return [{"role": "assistant", "content": text}] if text.strip() else []  # no provider takes an empty turn


def _chat_turns(outcome: Outcome, complaint: str) -> Sequence[JSON]:
    answer = None if outcome.text or outcome.body is None else _tool_answer(outcome.body, "chat")
    if answer is None:
        return [*_assistant(outcome.text or ""), _user(complaint)]
    results: list[JSON] = [{"role": "tool", "tool_call_id": name, "content": complaint} for name, _ in answer.calls]
    return [*answer.items, *results]


def _message_turns(outcome: Outcome, complaint: str) -> Sequence[JSON]:
    answer = None if outcome.body is None else _tool_answer(outcome.body, "messages")
    if answer is None:
        return [*_assistant(outcome.text or ""), _user(complaint)]
    results: list[JSON] = [
        {"type": "tool_result", "tool_use_id": name, "is_error": True, "content": complaint} for name, _ in answer.calls
    ]
    return [{"role": "assistant", "content": list(answer.items)}, _user(results)]


def _extend(members: dict[str, str], name: str, turns: Sequence[JSON]) -> bool:
    """Append *turns* to the list *name*; False if it is none."""
    own = members.get(name, "")
    items = split_array(own) if own.startswith("[") else None
    if items is None:
        return False
    members[name] = "[" + ",".join([*items, *map(dumps, turns)]) + "]"
    return True


def _extend_input(members: dict[str, str], outcome: Outcome, complaint: str) -> bool:
    answer = None if outcome.text or outcome.body is None else _tool_answer(outcome.body, "responses")
    turns: list[JSON] = [*_assistant(outcome.text or ""), _user(complaint)]
    if answer is not None:
        outputs: list[JSON] = [
            {"type": "function_call_output", "call_id": name, "output": complaint} for name, _ in answer.calls
        ]
        turns = [*answer.items, *outputs]
    if members.get("conversation", "null") != "null":  # which keeps what was said
        members["input"] = dumps([turn for turn in turns if turn not in (answer.items if answer else turns[:-1])])
        return True
    own = members.get("input")
    if own is None:  # a stored prompt
        members["input"] = dumps(turns)
        return "prompt" in members
    if own.startswith('"'):
        members["input"] = '[{"role":"user","content":' + own + "}]"
    return _extend(members, "input", turns)


def _extend_prompt(members: dict[str, str], outcome: Outcome, complaint: str) -> bool:
    prompt = members.get("prompt", "")
    if not prompt.startswith('"'):
        return False
    members["prompt"] = prompt[:-1] + dumps(f"{outcome.text or ''}\n\n{complaint}\n\n")[1:]
    return True


def _tool_answer(body: str, endpoint: str) -> _Answer | None:
    """The tool calls of an answer, and its items as they came; None if it calls none."""
    document = parse(body)
    if not isinstance(document, dict):
        return None
    match endpoint:
        case "chat":
            choices = document.get("choices")
            choice = choices[0] if isinstance(choices, list) and choices else None
            message = choice.get("message") if isinstance(choice, dict) else None
            calls = message.get("tool_calls") if isinstance(message, dict) else None
            found = [(_id(call, "id"), _function(call)) for call in calls] if isinstance(calls, list) else []
            kept: tuple[JSON, ...] = ({"role": "assistant", "content": None, "tool_calls": calls},)
        case "messages":
            content = document.get("content")
            kept = tuple(content) if isinstance(content, list) else ()
            used = [block for block in kept if isinstance(block, dict) and block.get("type") == "tool_use"]
            found = [(_id(block, "id"), dumps(block.get("input"))) for block in used]
        case "responses":
            output = document.get("output")
            kept = tuple(output) if isinstance(output, list) else ()
            used = [item for item in kept if isinstance(item, dict) and item.get("type") == "function_call"]
            found = [(_id(item, "call_id"), str(item.get("arguments") or "")) for item in used]
        case _:
            return None
    return _Answer(kept, tuple(found)) if found else None


def _id(call: JSON, name: str) -> str:
    value = call.get(name) if isinstance(call, dict) else None
    return value if isinstance(value, str) else ""


def _function(call: JSON) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return arguments if isinstance(arguments, str) else ""
