"""The command line: commands, the live screen, and tables."""
