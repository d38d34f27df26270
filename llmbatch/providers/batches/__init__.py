"""Batch APIs of providers: encode lines, upload, create, list, fetch results, cancel, delete. One module per shape.

It sends each call once and decides nothing; :mod:`llmbatch.runs.batches` does.
"""
