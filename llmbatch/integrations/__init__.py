"""Adapters for other libraries: circuits under HTTP clients and SDKs, and how errors of providers are judged."""
