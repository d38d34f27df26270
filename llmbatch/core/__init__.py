"""Values, events, errors and ports that every layer shares. Imports no other package of llmbatch."""
