"""The command line, the supervisor and the health checks of reqpool."""
