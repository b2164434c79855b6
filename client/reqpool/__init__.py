"""reqpool: an asynchronous request pool as a service. This package is the client SDK."""
