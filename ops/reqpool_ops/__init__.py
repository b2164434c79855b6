"""What runs reqpool: command line, supervisor, health."""
