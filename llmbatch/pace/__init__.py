"""Backoff, adaptive concurrency limit with a ramp, and token budget. Pure decisions; nothing here waits."""
