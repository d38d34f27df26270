"""Rows in, lines out: reading inputs, and the one place that knows the output file.

:mod:`~llmbatch.files.reader` pulls rows, :mod:`~llmbatch.files.output` opens, repairs and appends,
:mod:`~llmbatch.files.writer` groups lines into writes. Nothing here knows what a row becomes on the wire.
"""
