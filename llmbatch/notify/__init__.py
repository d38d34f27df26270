"""Notifications: what a user's command is told of a run, when, and how the command is run."""
