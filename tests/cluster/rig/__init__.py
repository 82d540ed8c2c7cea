"""A cluster of several machines on one: see ../README.md."""
