"""engine: makes latents. Controls and credits meet here, in the tick."""
