"""A provider on loopback that notes which rows it was asked, and that can be slow, down, or refuse a key."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

UNKNOWN_MODEL = "nowhere"

_number = re.compile(r"row (\d+)").search


class Provider:
    """Answers chat requests after *seconds*, those of slow rows after ten times as many.

    ``asked`` counts the calls for each row number, and ``answered`` those of them that were met neither by an outage
    nor by the model *unknown*.
    """

    def __init__(self, seconds: float = 0.05) -> None:
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.unknown = UNKNOWN_MODEL
        self.most_at_once = 0
        self.seconds = seconds
        self.status = 200
        self._at_once = 0
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, answer = provider._answer(str(body["messages"][-1]["content"]), str(body["model"]))
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _answer(self, prompt: str, model: str) -> tuple[int, object]:
        found = _number(prompt)
        with self._lock:
            if found is not None:
                self.asked[int(found[1])] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self.seconds * (10 if "slow" in prompt else 1))
        with self._lock:
            self._at_once -= 1
        if self.status != 200:
            return self.status, {"error": {"message": "no", "code": "invalid_api_key"}}
        if model == self.unknown:
            return 404, {"error": {"message": f"The model `{model}` does not exist", "code": "model_not_found"}}
        with self._lock:
            if found is not None:
                self.answered[int(found[1])] += 1
        if "bad" in prompt:
            return 400, {"error": {"message": "too long", "code": "context_length_exceeded"}}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        message = {"role": "assistant", "content": "yes"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return 200, {"id": "x", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
