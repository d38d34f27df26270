"""What a row becomes on the wire, and what an answer means.

One idea a module: :mod:`catalog` knows who is who, :mod:`formats` splices bodies, :mod:`connect` resolves base URLs and
keys, :mod:`http` carries, :mod:`outcome` judges; :mod:`caller` puts them together and :mod:`function` stands in for all
of it. A provider sends once: it does not retry, sleep, or know of the breaker. Nothing is imported here, so that the
HTTP client is loaded only by those who send.
"""
