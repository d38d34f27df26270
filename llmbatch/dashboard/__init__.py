"""Pages about runs, served on loopback while somebody looks at them: ``run --dashboard`` and ``llmbatch view``.

Importing this package loads no server; :mod:`llmbatch.dashboard.server` loads aiohttp.
"""
