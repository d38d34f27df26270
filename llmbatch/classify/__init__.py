"""What an answer or an exception means, by a table of rules."""
