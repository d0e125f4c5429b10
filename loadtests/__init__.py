"""Players that measure what they are given."""
