"""Host names, for kinds of third parties: defined in :mod:`reqpool_contract.host_names`."""

from reqpool_contract.host_names import as_served, canonical_address, canonical_host, netloc, to_ascii

__all__ = ["as_served", "canonical_address", "canonical_host", "netloc", "to_ascii"]
