"""Rows in: files, streams and Python iterables, split, decoded and parsed into rows."""
