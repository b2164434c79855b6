"""Payloads: what the two halves of a kind write and read, for the kinds in which both do it."""
