"""Try a policy in an outage: run the real runner against a scenario in virtual time and score it against an oracle."""
