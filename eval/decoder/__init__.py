"""Evaluation of diffusion decoders: distortion, realism, consistency and speed against the codec's own decoder."""
