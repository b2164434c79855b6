"""DNS answers, for apps: defined in :mod:`reqpool_contract.payloads.dns_answer`."""

from reqpool_contract.payloads.dns_answer import DnsAnswer, DnsRecord, DnsText

__all__ = ["DnsAnswer", "DnsRecord", "DnsText"]
