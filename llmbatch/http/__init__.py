"""HTTP/1.1 client over httptools' parser and ``asyncio.Protocol``: one POST, one whole answer; no redirects or cookies.

It does not judge answers, retry them, or bound how many requests run at once.
"""

from llmbatch.http.client import HttpTransport
from llmbatch.http.connection import DEFAULT_ANSWER_MEMORY

__all__ = ["DEFAULT_ANSWER_MEMORY", "HttpTransport"]
