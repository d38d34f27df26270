"""Simulate a provider: scenarios with outages, an HTTP server on loopback, and virtual time. Answers are filler text.

Import from :mod:`~llmbatch.sim.scenario`, :mod:`~llmbatch.sim.provider`, :mod:`~llmbatch.sim.server` (which loads
aiohttp) and :mod:`~llmbatch.sim.virtual`.
"""
