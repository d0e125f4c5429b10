"""A session that was played, made again from its log: for audits, for bug reports, and as a film."""
