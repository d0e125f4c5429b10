"""What sessions cost on this machine: `make bench`."""
