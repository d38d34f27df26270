"""Adapters for other libraries, such as the SDKs of providers."""
