"""Streams of audio/hf give the codes and the sound of the whole."""

from __future__ import annotations

import functools
import io
import random

import pytest
import torch
from support.codecs import one_line, structured

from tokenloom import codecs
from tokenloom.codecs import Codes

pytest.importorskip("transformers")

MIMI = {
    "model_type": "mimi", "sampling_rate": 8000, "hidden_size": 16, "num_filters": 4, "upsampling_ratios": [4, 2],
    "codebook_size": 64, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 4,
    "num_semantic_quantizers": 2, "upsample_groups": 16, "num_hidden_layers": 2, "intermediate_size": 16,
    "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 8,
}  # fmt: skip
ENCODEC = {
    "model_type": "encodec", "sampling_rate": 8000, "num_filters": 4, "hidden_size": 8, "upsampling_ratios": [4, 2],
    "target_bandwidths": [10.0, 20.0, 40.0], "num_lstm_layers": 1, "pad_mode": "constant",
}  # fmt: skip
KINDS = {
    "mimi": {"model": MIMI},
    "mimi of whole frames": {"model": MIMI, "whole_frames": True},
    "mimi of many layers": {
        "model": {
            **MIMI, "pad_mode": "replicate", "num_residual_layers": 2, "use_conv_shortcut": True, "kernel_size": 9,
            "residual_kernel_size": 4, "upsampling_ratios": [5, 3], "frame_rate": 134.0, "upsample_groups": 1,
            "audio_channels": 2,
        },
    },
    "encodec": {"model": ENCODEC},
    "encodec in stereo": {"model": {**ENCODEC, "pad_mode": "replicate", "audio_channels": 2}, "whole_frames": True},
}  # fmt: skip


FEW = ["mimi", "mimi of whole frames", "mimi of many layers"]


@functools.cache
@torch.no_grad()
def build(kind: str) -> codecs.Codec:
    """Return a codec whose attention counts, whose codes vary, and whose samples are in [-0.5, 0.5]."""
    torch.manual_seed(0)
    codec = codecs.build("audio/hf", **KINDS[kind])
    family, model = codec.family, codec.model
    for name, value in model.named_parameters():
        if "layer_scale" in name:
            value.uniform_(0.3, 1)
    latents = family.analysis_stage(model)(structured(codec, (100 * codec.spec.stride[0],)), False)
    for name, book in model.named_buffers():
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            alike = book.shape[1] == latents.shape[1]  # Mimi projects latents before it searches
            book.mul_(latents.std((0, 2)) if alike else latents.std())
            book.add_(latents.mean((0, 2)) if alike and ".0." in name else 0)
    sound = family.synthesis_stage(model)(latents, False)
    last = [module for module in model.decoder.modules() if isinstance(module, torch.nn.Conv1d)][-1]
    for value in last.parameters():
        value.div_(2 * sound.abs().max())
    return codec


def pieces(x: torch.Tensor, seed: int) -> tuple[torch.Tensor, ...]:
    """Cut a sound into random lengths from one sample to all."""
    draw, lengths, total = random.Random(seed), [], x.shape[-1]
    while (left := total - sum(lengths)) > 0:
        lengths.append(min(left, draw.choice([1, draw.randint(1, 20), draw.randint(1, 400), total])))
    return x.split(lengths, -1)


def streamed(codec: codecs.Codec, cut: tuple[torch.Tensor, ...], setting=None) -> tuple[Codes, torch.Tensor]:
    encoder, decoder = codec.stream_encoder(setting), codec.stream_decoder(setting)
    parts = [*map(encoder.push, cut), encoder.close()]
    sounds = [*map(decoder.push, parts), decoder.close()]
    sizes = torch.stack([part.sizes for part in parts]).sum(0)
    return Codes(torch.cat([part.indices for part in parts], 2), sizes), torch.cat(sounds, -1)


@pytest.mark.parametrize("samples", [1, 45, 1001])
@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_gives_the_codes_and_the_sound_of_the_whole(kind, samples):
    codec = build(kind)
    x = torch.cat([structured(codec, (samples,), seed) for seed in range(2)])
    for setting in (codec.settings.values[0], codec.settings.values[-1]):
        whole = codec.encode(x, setting)
        sound = codec.decode(whole)
        assert samples < 1001 or (len(whole.indices.unique()) > 20 and 0.02 < sound.abs().max() < 1)
        for seed in range(3):
            codes, y = streamed(codec, pieces(x, seed), setting)
            assert codes == whole
            torch.testing.assert_close(y, sound, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_may_end_anywhere_within_a_frame(kind):
    """The layers, or zeros, complete the last frame. Those of Mimi differ."""
    codec = build(kind)
    stride = codec.spec.stride[0]
    x = structured(codec, (4 * stride,))
    for samples in range(3 * stride, 4 * stride + 1):
        y = x[..., :samples]
        assert streamed(codec, y.split(2 * stride + 3, -1))[0] == codec.encode(y)


def test_frames_are_those_of_the_streaming_of_transformers():
    codec, caches, parts = build("mimi"), {}, []
    x = structured(codec, (960,))
    encoder = codec.stream_encoder()
    with torch.no_grad():
        for piece in x.split(48, -1):
            out = codec.model.encode(piece, use_streaming=True, **caches)
            caches = {"encoder_past_key_values": out.encoder_past_key_values, "padding_cache": out.padding_cache}
            parts.append((encoder.push(piece).indices, out.audio_codes))
    assert all(torch.equal(ours, theirs) for ours, theirs in parts) and len(parts) == 20


def held(stream) -> list[int]:
    """Return the bytes that each stage keeps."""
    sizes = []
    for stage in stream._stage.stages:
        kept = [getattr(stage, "held", None)]
        if hasattr(stage, "cache"):
            kept += [value for layer in stage.cache.layers for value in (layer.keys, layer.values)]
        sizes.append(sum(value.untyped_storage().nbytes() for value in kept if value is not None))
    return sizes


def test_a_stream_holds_no_more_than_a_window():
    codec = build("mimi")
    encoder, decoder, frame = codec.stream_encoder(), codec.stream_decoder(), structured(codec, (16,))
    sizes = []
    for _ in range(60):
        decoder.push(encoder.push(frame))
        sizes.append(held(encoder) + held(decoder))
    attention = (MIMI["sliding_window"] - 1 + 2) * 2 * 2 * 8 * 4  # positions, keys and values, layers, channels, bytes
    assert sizes[10] == sizes[-1] and max(sizes[-1]) == attention


@pytest.mark.parametrize("kind", FEW)
def test_a_frame_is_complete_at_its_end(kind):
    codec = build(kind)
    encoder, stride = codec.stream_encoder(), codec.spec.stride[0]
    counts = [encoder.push(sample).indices.shape[2] for sample in structured(codec, (2 * stride,)).split(1, -1)]
    assert counts == [*[0] * (stride - 1), 1] * 2
    assert (encoder.latency, encoder.delay, codec.stream_decoder().latency) == (0, stride, 0)
    assert codec.spec.causal and codec.stream_obstacle is None


def test_items_may_use_different_numbers_of_quantizers():
    codec = build("mimi")
    codes = codec.encode(torch.cat([structured(codec, (161,), seed) for seed in range(2)]))
    mixed = codes.indices.clone()
    mixed[0, 3:] = -1
    mixed = Codes(mixed, codes.sizes)
    decoder = codec.stream_decoder()
    parts = [Codes(mixed.indices[..., :4], codes.sizes * 0 + 64), Codes(mixed.indices[..., 4:], codes.sizes - 64)]
    y = torch.cat([*map(decoder.push, parts), decoder.close()], -1)
    torch.testing.assert_close(y, codec.decode(mixed), rtol=0, atol=1e-6)


def test_a_file_of_segments():
    torch.manual_seed(0)
    codec = codecs.build("audio/hf", model={**MIMI, "sampling_rate": 400})
    x, file = structured(codec, (70 * 400 + 5,))[0], io.BytesIO()
    codecs.compress_stream(codec, x.split(999, 1), file, 3)
    reader = codecs.SegmentReader(file.getvalue())
    parts = [codes.indices for _, codes in reader.pieces(codec, 0)]
    whole = codec.encode(x[None], 3)
    assert codec.stream_encoder(3).push(x[None]).indices.equal(whole.indices[..., :-1])
    assert len(parts) > 5 and torch.equal(torch.cat(parts, 2), whole.indices)
    y = torch.cat([*codecs.decompress_stream(reader, codec, 12_345, 20_000)], 1)
    torch.testing.assert_close(y, codec.decode(whole)[0, :, 12_345:20_000], rtol=0, atol=1e-4)  # peaks are cut


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({**MIMI, "use_causal_conv": False}, "look ahead"), ({**MIMI, "trim_right_ratio": 0.5}, "look ahead"),
        ({**MIMI, "pad_mode": "reflect"}, "reflect"), ({**MIMI, "sliding_window": 1}, "reach 2 positions"),
        (
            {**MIMI, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "length of the signal",
        ),
        ({**ENCODEC, "pad_mode": "reflect"}, "reflect"), ({**ENCODEC, "use_causal_conv": False}, "look ahead"),
        ({**ENCODEC, "normalize": True}, "loudness"), ({**ENCODEC, "norm_type": "time_group_norm"}, "norms"),
        ({**ENCODEC, "chunk_length_s": 0.05, "overlap": 0.04}, "chunks that overlap"),
    ],
)  # fmt: skip
def test_what_needs_later_samples_refuses(model, reason):
    codec = codecs.build("audio/hf", model=model)
    for opened in (codec.stream_encoder, codec.stream_decoder):
        with pytest.raises(ValueError, match=f"^audio/hf cannot be streamed: .*{reason}") as error:
            opened()
        assert one_line(error)
    assert not codec.spec.causal


def test_the_whole_is_not_a_piece_of_a_stream():
    """With `use_streaming`, the library itself drops the samples after the last whole frame."""
    codec = codecs.build("audio/hf", model={**MIMI, "use_streaming": True})
    codec.load_state_dict(build("mimi").state_dict())
    x = structured(codec, (1001,))
    assert codec.encode(x).indices.equal(build("mimi").encode(x).indices)
