"""What the classes and the command line take unless told otherwise."""

PORT = 7766  # of a server; the guides use it too
ADDRESS = f"127.0.0.1:{PORT}"  # where a server listens: clients on the same host only
