"""Runs over batch APIs (``--via batch``): pure decisions, and one loop that carries them out.

Decisions: ``names``, ``chunks``, ``board``, ``queue``, ``control_plane``, ``timing``, ``meaning``; no clock, no event
loop, no files. The loop: ``loop``, with ``submit``, ``collect`` and ``ended``.
"""
