"""How fast to send: the limit of requests in flight, rates that refusals teach, backoff, budgets. Pure."""
