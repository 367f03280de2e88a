"""Pictures of clothes from noise, in several steps: do quantized convolutions keep them?"""
