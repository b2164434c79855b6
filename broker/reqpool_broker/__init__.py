"""The reqpool broker: spreads requests over workers, publishes results."""
