"""Structured answers: a schema is asked for as each provider knows it, and checked on arrival."""
