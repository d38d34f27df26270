"""Builds request bodies from rows by copying raw JSON: a value is never re-encoded.

:mod:`~llmbatch.providers.formats.row_kind` detects the kind of a row, :mod:`~llmbatch.providers.formats.bodies` builds
the body of a row that is not a batch row, :mod:`~llmbatch.providers.formats.ping` the smallest request.
"""
