"""The services: each is a gRPC server of its own, and `services.play` runs them all in one process."""

import os

# Read when gRPC is first imported. Nothing of ours uses gRPC after a fork: children become other programs.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# Otherwise every handshake that fails is a line that is no JSON, for whoever likes to fill a log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
