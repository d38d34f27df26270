"""The only floor that orchestrates awaiting: which row goes next, one attempt, parking, draining."""
