"""Running reqpool: command line, supervisor, health."""
