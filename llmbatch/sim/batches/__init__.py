"""The batch APIs of the simulated provider: OpenAI's files and batches, Anthropic's message batches."""
