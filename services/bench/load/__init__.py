"""How many players the services hold on this machine: `make load`."""
