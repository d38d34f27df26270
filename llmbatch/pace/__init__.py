"""Backoff, adaptive concurrency limit, and token budget. Pure: nothing in this package waits."""
