"""Pictures of clothes from noise, in several steps: and what quantization does to them."""
