"""The families. None imports another; none imports a client library before a URL asks for it."""
