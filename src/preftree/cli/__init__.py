"""The command line: one file per verb group, heavy imports inside the commands."""
