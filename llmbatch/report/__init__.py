"""Numbers: one fold over the events (:mod:`llmbatch.report.stats`), and what it hands out.

What this floor does not do: draw, read a clock, or touch a file.
"""
