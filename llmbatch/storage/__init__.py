"""Calls into the file system, atomic replacement of files, and the set of finished rows."""
