"""Published curves of rate and distortion beside those of a comparison, in the results layout of CompressAI."""
