"""The laboratory: what quantized fast convolutions cost trained networks."""
