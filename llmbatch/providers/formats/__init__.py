"""Rows into request bodies, by splicing source text: a value is copied, never re-encoded.

:mod:`~llmbatch.providers.formats.row_kind` finds out what kind of row it is, :mod:`~llmbatch.providers.formats.bodies`
makes the body of a row that is not a batch row, :mod:`~llmbatch.providers.formats.ping` the smallest request.
None of them knows a URL, a header or a key.
"""
