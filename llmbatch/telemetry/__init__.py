"""Numbers of a run for monitoring: metrics for Prometheus, spans and metrics for OpenTelemetry. Off by default.

Importing this package loads neither prometheus-client nor OpenTelemetry.
"""
