"""sessions: owns the state of sessions and the seats in the engines; alone in speaking to Redis."""
