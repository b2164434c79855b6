"""A seeded fault run over a real cluster, real upstreams and several producers: ``ops/chaos.sh``."""
