"""Values, events, errors and ports that every layer shares; imports nothing of the others."""
