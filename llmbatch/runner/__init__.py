"""The loop of a run: schedules rows, sends them, parks and retries them, and finishes them."""
