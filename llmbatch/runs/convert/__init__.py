"""Batch files for submission by hand, and their results back: ``llmbatch convert``."""
