"""What is kept of a route's first request for its health checks."""

from __future__ import annotations

from dataclasses import replace

from runner_parts import Parts, prompts

from llmbatch.core.ports import first_request
from llmbatch.core.rows import Row
from llmbatch.runner.health_requests import MAX_GOOD_BYTES, HealthRequests


def test_of_a_large_first_request_only_the_ping_is_kept() -> None:
    """A row may have 50 MB of pictures, and a run thousands of routes."""
    parts = Parts(prompts(1), smallest=True)
    run = parts.context()
    checks = HealthRequests(run, lambda: ())
    small = first_request(run.provider, Row(1, "", '"r"', {"prompt": '"hi"'}))
    large = replace(small, body=b" " * (MAX_GOOD_BYTES + 1) + small.body)

    kept = checks.template(large)

    assert checks.template(small) is small
    assert len(kept.body) < 1000
    assert kept.route == large.route
    assert run.provider.ping(kept) is not None
