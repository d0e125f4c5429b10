"""The page: a browser plays by keyboard and touch."""
