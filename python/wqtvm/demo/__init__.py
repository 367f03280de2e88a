"""A demonstration on a trained network: FFDNet, a denoiser of colour photographs."""
