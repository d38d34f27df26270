"""Turns rows into requests and sends them.

:mod:`catalog` lists the known providers, :mod:`formats` builds bodies, :mod:`resolve` finds base URLs and keys,
:mod:`http_provider` puts them together, and :mod:`function_provider` calls an async function instead. A provider sends
once: it does not retry, sleep, or know of the breaker. Nothing is imported here, so that the HTTP client is loaded only
when it is used.
"""
