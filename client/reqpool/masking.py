"""Masking of secrets, for kinds of third parties: defined in :mod:`reqpool_contract.masking`."""

from reqpool_contract.masking import without_password, without_passwords

__all__ = ["without_password", "without_passwords"]
