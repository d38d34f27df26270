"""The output file, its lock and writer, and the file of deferred rows."""
