"""Reads rows from files, streams and Python iterables: decompress, split, decode and parse."""
