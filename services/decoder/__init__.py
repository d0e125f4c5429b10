"""decoder: turns latents into frames for players, at their pace."""
