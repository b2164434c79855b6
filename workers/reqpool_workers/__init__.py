"""The reqpool worker: one process, one epoll loop, its own fds."""
