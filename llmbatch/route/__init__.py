"""Decide whether a failure is the row's, the route's, or this machine's. Pure: outcomes in, decisions out.

Start at :class:`~llmbatch.route.route.RouteState`; ``docs/evidence.md`` explains the rules. Time and random draws are
arguments.
"""
