"""Assembles a run from source, sink, provider and options."""
