"""The socket beside an output by which its run is controlled: the run's end of it, and that of the commands."""
