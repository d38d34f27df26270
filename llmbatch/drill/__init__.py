"""What a policy does in an outage, in virtual time: the real runner against a scenario, scored beside an oracle."""
