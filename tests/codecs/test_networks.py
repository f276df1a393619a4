"""Initial weights of learned networks. test_contract.py tests their interface."""

from __future__ import annotations

import torch

from tokenloom import codecs


def test_a_quiet_waveform_reaches_the_latents_of_a_fresh_codec():
    """If initial weights let the signal vanish, latents are constant and a residual quantizer learns one code."""
    torch.manual_seed(0)
    codec = codecs.build("audio/rvq", sample_rate=8000, ratios=[5, 4, 4, 2], filters=8, dim=16)
    x = 0.02 * torch.sin(torch.arange(8000) * 0.3 * (1 + torch.arange(8000) / 8000))[None, None]
    with torch.no_grad():
        latents = codec.analyze(x)
    assert latents.std(2).mean() > 5 * latents.mean(2).abs().mean()
    assert latents.std(2).mean() > 0.2 * x.std()
