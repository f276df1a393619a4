"""Streams give the codes of the whole, every one, and its sound, however they are cut."""

from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch
from support.codecs import TINY, signals, tiny
from torch import Tensor, nn

from tokenloom import codecs
from tokenloom.codecs import Codes, LatentCodec, Target
from tokenloom.codecs.quantizers import FSQ
from tokenloom.codecs.types import CodeSpec, Modality

STREAMED = ["audio/rvq", "audio/encodec", "audio/lyra"]


class LookAhead(LatentCodec):
    """A local codec of sound that is not causal, as a user writes one."""

    name = "audio/look-ahead"

    def __init__(self) -> None:
        quantizer = FSQ([8, 8])
        super().__init__(CodeSpec(Modality.AUDIO, quantizer.sizes, (4,), 1, 8000), quantizer)
        torch.manual_seed(0)
        self.inward = nn.Conv1d(1, 2, 12, 4, padding=4)
        self.outward = nn.ConvTranspose1d(2, 1, 12, 4, padding=4)

    def analyze(self, x: Tensor) -> Tensor:
        return self.inward(nn.functional.pad(x, (0, -x.shape[-1] % 4)))

    def synthesize(self, latents: Tensor) -> Tensor:
        return self.outward(latents)


def endless() -> codecs.Codec:
    return codecs.build("audio/rvq", **TINY["audio/rvq"], lstm=2)


def cut(total: int, seed: int) -> list[int]:
    """Return random lengths from one sample to all."""
    draw, lengths = random.Random(seed), []
    while (left := total - sum(lengths)) > 0:
        lengths.append(min(left, draw.choice([1, draw.randint(1, 20), draw.randint(1, 400), total])))
    return lengths


def streamed(codec: codecs.Codec, x: Tensor, setting, lengths: list[int]) -> tuple[Codes, Tensor]:
    encoder, decoder = codec.stream_encoder(setting), codec.stream_decoder(setting)
    parts, sound = [], []
    for piece in x.split(lengths, -1):
        parts.append(encoder.push(piece))
        sound.append(decoder.push(parts[-1]))
    parts.append(encoder.close())
    sound += [decoder.push(parts[-1]), decoder.close()]
    sizes = torch.stack([part.sizes for part in parts]).sum(0)
    return Codes(torch.cat([part.indices for part in parts], 2), sizes), torch.cat(sound, -1)


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 40, 1501])
@pytest.mark.parametrize("name", [*STREAMED, "lstm", "look-ahead"])
def test_every_cut_gives_the_codes_and_the_sound_of_the_whole(name, samples):
    codec = {"lstm": endless, "look-ahead": LookAhead}.get(name, lambda: tiny(name))()
    x = signals(codec, (samples,))
    for setting in codec.settings.sweep[:2]:
        whole = codec.encode(x, setting)
        sound = codec.decode(whole)
        for seed in range(3):
            codes, y = streamed(codec, x, setting, cut(samples, seed))
            assert codes == whole
            torch.testing.assert_close(y, sound, rtol=0, atol=1e-6)


def test_codes_of_speech_from_the_shipped_codec():
    codec, x = codecs.load("digits-rvq"), signals(tiny("audio/rvq"), (24_000,), batch=2)
    whole, (codes, y) = codec.encode(x), streamed(codec, x, None, cut(24_000, 1))
    assert codes == whole
    torch.testing.assert_close(y, codec.decode(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", STREAMED)
def test_latency_and_delay_are_what_samples_show(name):
    codec = tiny(name)
    encoder, stride = codec.stream_encoder(), codec.spec.stride[0]
    x = signals(codec, (40 * stride,), batch=1)
    whole, frame = codec.encode(x), 20
    later = x.clone()
    later[..., (frame + 1) * stride + encoder.latency :] *= -0.5
    assert torch.equal(codec.encode(later).indices[..., : frame + 1], whole.indices[..., : frame + 1])
    first = next(i for i, sample in enumerate(x.split(1, -1), 1) if encoder.push(sample).indices.shape[2])
    assert first == codec.stream_encoder().delay
    assert name == "audio/encodec" or first == stride, "a frame is complete at its end"


def test_a_codec_that_looks_ahead_states_it():
    codec = LookAhead()
    encoder, decoder = codec.stream_encoder(), codec.stream_decoder()
    assert (encoder.latency, encoder.delay, decoder.latency) == (4, 8, 1)
    x = signals(codec, (40,), batch=1)
    parts = [encoder.push(piece) for piece in x.split(4, -1)] + [encoder.close()]
    assert [part.indices.shape[2] for part in parts] == [0, *[1] * 10]
    assert [int(part.sizes[0]) for part in parts] == [0, *[4] * 10]


def test_a_stream_holds_no_more_than_it_needs():
    codec, x = tiny("audio/rvq"), signals(tiny("audio/rvq"), (8,), batch=1)
    encoder = codec.stream_encoder()
    for _ in range(50):
        encoder.push(x)
    ((before, _),) = codec.encoder_reach
    assert encoder._doubts.held.shape[-1] <= before * codec.spec.stride[0]
    assert encoder._doubts.held.untyped_storage().nbytes() == 4 * encoder._doubts.held.numel()


@pytest.mark.parametrize("name", ["image/fsq", "image/jpeg", "audio/opus", "audio/flac", "text/bpe"])
def test_others_refuse_in_one_line(name):
    with pytest.raises(ValueError, match=f"^{tiny(name).name} cannot be streamed: [^\n]+$"):
        tiny(name).stream_encoder()
    with pytest.raises(ValueError, match="cannot be streamed"):
        tiny(name).stream_decoder()


def test_mistakes():
    codec = tiny("audio/rvq")
    x = signals(codec, (20,))
    with pytest.raises(ValueError, match="quantizers of audio/rvq must be one of"):
        codec.stream_encoder(99)
    with pytest.raises(ValueError, match="needs the whole signal; a stream must have a setting"):
        codec.stream_encoder(Target(kbps=3))
    encoder, decoder = codec.stream_encoder(), codec.stream_decoder()
    with pytest.raises(ValueError, match="at least 1 sample, got none before close"):
        codec.stream_encoder().close()
    with pytest.raises(ValueError, match="must be float32"):
        encoder.push(x.double())
    codes = encoder.push(x)
    with pytest.raises(ValueError, match="must have 2 items, got 1"):
        encoder.push(x[:1])
    decoder.push(codes)
    decoder.push(encoder.close())
    with pytest.raises(ValueError, match="takes nothing after close"):
        encoder.push(x)
    with pytest.raises(ValueError, match="closed already"):
        encoder.close()
    with pytest.raises(ValueError, match="one ended within a frame"):
        decoder.push(codes)
    decoder.close()
    with pytest.raises(ValueError, match="takes nothing after close"):
        decoder.push(codes)
    with pytest.raises(ValueError, match="one size"):
        codec.stream_decoder().push(Codes(codes.indices, torch.tensor([[16], [15]])))


def test_streams_have_the_checks_of_encode_and_decode():
    codec = copy.deepcopy(tiny("audio/rvq"))
    for wrong in (None, "x", torch.zeros(3)):
        with pytest.raises(ValueError, match="must be a Codes object"):
            codec.stream_decoder().push(wrong)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert codec.stream_encoder().push(signals(codec, (16,)).float()).indices.shape[2] == 2
    finally:
        torch.set_default_dtype(default)
    codec.encoder.to(torch.bfloat16)
    with pytest.raises(ValueError, match="weights of audio/rvq must be float32"):
        codec.stream_encoder()


def test_a_network_that_hides_what_it_depends_on_has_no_stream():
    codec = LookAhead()
    codec.analyze = lambda x: nn.functional.avg_pool1d(x.nan_to_num(), 4).expand(-1, 2, -1)
    assert codec.stream_obstacle


def test_callers_of_other_modes_get_the_same():
    codec = tiny("audio/rvq")
    x = signals(codec, (333,))
    whole = codec.encode(x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        codes, y = streamed(codec, x, None, cut(333, 0))
    assert codes == whole
    torch.testing.assert_close(y, codec.decode(whole), rtol=0, atol=1e-6)
