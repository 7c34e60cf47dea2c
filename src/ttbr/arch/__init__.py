"""What the architecture says: no I/O, no policy. regime > registers | descriptors > geometry."""
