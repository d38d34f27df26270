"""Classifies answers and exceptions by a table of rules."""
