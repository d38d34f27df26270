"""Lines out: the output file, its lock, its writer, and the file of deferred rows."""
