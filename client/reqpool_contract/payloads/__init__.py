"""Payloads: the codecs that both halves of a kind need."""
