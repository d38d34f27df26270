"""How fast: backoff, an adaptive limit with a ramp, a token budget. Decisions only; nothing here waits."""
