"""HTTP/1.1 client over httptools' parser and ``asyncio.Protocol``: one POST, one whole answer; no redirects or cookies.

It neither classifies responses, nor retries, nor limits how many requests run at once.
"""

from llmbatch.http.body import DEFAULT_ANSWER_MEMORY
from llmbatch.http.client import HttpTransport

__all__ = ["DEFAULT_ANSWER_MEMORY", "HttpTransport"]
