"""A run put together: source, sink, provider and options."""
