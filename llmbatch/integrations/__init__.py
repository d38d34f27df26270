"""Adapters for the libraries that callers use."""
