"""Is it the row, the route, or this machine? Pure: answers in, decisions out; time and chance are arguments.

:class:`~llmbatch.route.route.RouteState` is the way in; ``docs/evidence.md`` states the rules in words.
"""
