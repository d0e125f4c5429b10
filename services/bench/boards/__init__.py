"""Every dashboard as a picture, over a real run: `python -m services.bench.boards`."""
