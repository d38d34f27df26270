"""Run statistics, computed from events by :mod:`llmbatch.report.stats`; snapshots and the final summary."""
