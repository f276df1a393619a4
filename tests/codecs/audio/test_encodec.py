"""audio/encodec against the `encodec` package and transformers, with random weights and codebooks."""

from __future__ import annotations

import itertools
import math
import tarfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.codecs import one_line
from torch import Tensor

import tokenloom.codecs.audio.encodec  # noqa: F401
from tokenloom import codecs
from tokenloom.codecs import BitstreamError, Codes, Target, bitstream, rate
from tokenloom.codecs.audio import seanet

DATA = Path(__file__).parents[4] / "shared" / "data"
SMALL = {"filters": 8, "ratios": [4, 3, 2], "dim": 16}
"""Stride 24."""


def sound(samples: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Return (1, channels, samples): a chirp, a swelling tone and noise, at a different level in each channel."""
    noise = torch.Generator().manual_seed(seed)
    t = torch.arange(samples) / 12_000
    tones = 0.3 * torch.sin(900 * t * (1 + t)) + 0.3 * torch.sin(5000 * t) * torch.sin(3 * t + seed).square()
    share = torch.linspace(1, 0.4, channels)[:, None]
    return (share * tones + 0.05 * torch.randn(channels, samples, generator=noise)).clamp(-1, 1)[None]


@torch.no_grad()
def liven(model, books) -> None:
    """Scale the weights so that a signal keeps its level, and the codebooks to the spread of the latents."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if name.endswith(("weight_g", "original0")):
            value.mul_(1.8)
        elif name.endswith("bias") and "lstm" not in name:
            value.normal_(std=0.05, generator=generator)
    channels = model.config.audio_channels if hasattr(model, "config") else model.channels
    x = sound(4000, channels)
    latents = model.encoder(x / x.std())
    for q, book in enumerate(books):
        book.embed.normal_(generator=generator).mul_(latents.std() * 0.8**q)
        book.embed_avg.copy_(book.embed)
        book.inited.fill_(1)
    y = model.decoder(latents)
    last = [p for n, p in model.decoder.named_parameters() if n.endswith(("weight_g", "original0", "norm.weight"))][-1]
    bias = [p for n, p in model.decoder.named_parameters() if n.endswith("bias")][-1]
    scale = 0.2 if "norm.weight" not in str(model.state_dict().keys()) else 1.0  # there the chunk's scale does it
    last.mul_(scale / y.std())
    bias.mul_(scale / y.std())


def official(kind: str, *, seed: int = 0, **small):
    """Return a model of the `encodec` package, of the published size or smaller."""
    pytest.importorskip("encodec")
    from encodec import EncodecModel, modules
    from encodec.quantization import ResidualVectorQuantizer

    torch.manual_seed(seed)
    if not small:
        model = getattr(EncodecModel, f"encodec_model_{kind}")(pretrained=False)
    else:
        large = kind == "48khz"
        hz, bandwidths = small.pop("sample_rate"), small.pop("bandwidths")
        dim = small.pop("dim")
        network = {
            "channels": 1 + large, "dimension": dim, "norm": "time_group_norm" if large else "weight_norm",
            "causal": not large, **small,
        }  # fmt: skip
        network["n_filters"] = network.pop("filters")
        step = math.ceil(hz / math.prod(network["ratios"])) * 10
        quantizer = ResidualVectorQuantizer(dimension=dim, n_q=int(1000 * bandwidths[-1] // step), bins=1024)
        model = EncodecModel(
            modules.SEANetEncoder(**network), modules.SEANetDecoder(**network), quantizer, bandwidths, hz, 1 + large,
            normalize=large, segment=1.0 if large else None,
        )  # fmt: skip
    model.eval()
    liven(model, [layer._codebook for layer in model.quantizer.vq.layers])
    return model


@torch.no_grad()
def compare(model, codec, x: Tensor, bandwidth: float) -> set[int]:
    """Assert equal codes, scales and waveforms; return the distinct codes."""
    model.set_target_bandwidth(bandwidth)
    frames = model.encode(x)
    codes = codec.encode(x, bandwidth)
    wanted = torch.cat([frame for frame, _ in frames], 2)
    assert torch.equal(codes.indices, wanted)
    if frames[0][1] is not None:
        assert torch.equal(codes.side["scale"], torch.cat([scale for _, scale in frames], 1))
    y = model.decode(frames)[..., : x.shape[-1]]
    torch.testing.assert_close(codec.decode(codes), y.clamp(-1, 1), rtol=0, atol=1e-5)
    if x.shape[-1] > 1000:
        assert y.std() > 0.05 and (y.abs() > 1).float().mean() < 0.01, "or the comparison means little"
    return set(wanted.unique().tolist())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return kind → (official model, its file, ours)."""
    found = {}
    for kind in ("24khz", "48khz"):
        model = official(kind)
        path = tmp_path_factory.mktemp(kind) / f"encodec_{kind}.th"
        torch.save(model.state_dict(), path)
        found[kind] = (model, path, codecs.build("audio/encodec", checkpoint=path))
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return smaller models in the same form. A second of the 48khz kind has 2,400 samples here."""
    rates = {"24khz": (24_000, [10.0, 20.0, 40.0, 80.0]), "48khz": (2_400, [1.0, 2.0, 4.0, 8.0])}
    found = {}
    for kind, (hz, bandwidths) in rates.items():
        model = official(kind, sample_rate=hz, bandwidths=bandwidths, lstm=1, n_residual_layers=2, **SMALL)
        path = tmp_path_factory.mktemp(kind) / "small.th"
        torch.save({"state_dict": model.state_dict(), "step": 3}, path)
        codec = codecs.build("audio/encodec", checkpoint=path, sample_rate=hz, bandwidths=bandwidths)
        found[kind] = (model, path, codec)
    return found


def test_reflection_equals_torch():
    for samples, left, right in itertools.product(range(1, 10), range(7), range(7)):
        x = torch.randn(2, 3, samples)
        missing = max(0, max(left, right) + 1 - samples)
        wanted = F.pad(F.pad(x, (0, missing)), (left, right), "reflect")
        assert torch.equal(seanet.reflect(x, left, right), wanted[..., : samples + left + right])


# -- against the encodec package -----------------------------------------------------------------


def test_24khz_equals_the_package(published):
    model, _, codec = published["24khz"]
    assert codec.settings.values == (1.5, 3.0, 6.0, 12.0, 24.0) and codec.settings.unit == "kbit/s"
    assert codec.spec.sample_rate == 24_000 and codec.spec.channels == 1 and codec.spec.codebook_sizes == (1024,) * 32
    seen = compare(model, codec, sound(24_001), 24.0)
    assert len(seen) > 100
    for bandwidth in codec.settings.values:
        compare(model, codec, sound(5_000), bandwidth)
    for samples in (1, 2, 6, 7, 319, 320, 321, 2239):
        compare(model, codec, sound(samples), 24.0)


def test_48khz_equals_the_package(published):
    model, _, codec = published["48khz"]
    assert codec.settings.values == (3.0, 6.0, 12.0, 24.0) and codec.spec.window == (48_000, 47_520)
    assert codec.spec.sample_rate == 48_000 and codec.spec.channels == 2 and codec.spec.codebook_sizes == (1024,) * 16
    x = sound(97_000, 2)  # three chunks, the last of 1,960 samples
    seen = compare(model, codec, x, 24.0)
    assert len(seen) > 100
    for bandwidth in codec.settings.values:
        compare(model, codec, x[..., :4_000], bandwidth)
    for samples in (1, 6, 321):
        compare(model, codec, x[..., :samples], 24.0)


@pytest.mark.parametrize("kind", ["24khz", "48khz"])
def test_smaller_ones_at_every_length_and_bandwidth(small, kind):
    model, _, codec = small[kind]
    x = sound(6_100, codec.spec.channels)
    seen = set()
    for samples in (1, 2, 3, 5, 8, 23, 24, 25, 145, 1000, 2376, 2377, 2400, 4752, 4777, 6_100):
        for bandwidth in codec.settings.values:
            seen |= compare(model, codec, x[..., :samples], bandwidth)
    assert len(seen) > 100
    assert [codec.count(b) for b in codec.settings.values] == ([1, 2, 4, 8])


def test_a_chunk_whose_frames_reach_beyond_the_last_one(published):
    """The package itself fails here."""
    model, _, codec = published["48khz"]
    x = sound(47_700, 2)
    with torch.no_grad():
        frames = model.encode(x)
        with pytest.raises(RuntimeError):
            model.decode(frames)
    codes = codec.encode(x)
    assert torch.equal(codes.indices, torch.cat([frame for frame, _ in frames], 2))
    assert codes.indices.shape[2] == 150 + 1 and codec.decode(codes).shape == x.shape


@pytest.mark.parametrize(("pack", "count"), [("spoken_digits-test", 3), ("music-train", 2)])
@pytest.mark.parametrize("kind", ["24khz", "48khz"])
def test_real_sounds(published, kind, pack, count):
    path = DATA / f"{pack}.tar"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    model, _, codec = published[kind]
    with tarfile.open(path) as tar:
        sounds = (member for member in tar if member.name.endswith((".flac", ".ogg")))
        for member in itertools.islice(sounds, count):
            x = codecs.read(
                tar.extractfile(member).read(), sample_rate=codec.spec.sample_rate, channels=codec.spec.channels
            )
            start = x.shape[1] // 3
            some = x[None, :, start : start + codec.spec.sample_rate // 2]
            model.set_target_bandwidth(24.0)
            with torch.no_grad():
                frames = model.encode(some)
                y = model.decode(frames)[..., : some.shape[-1]].clamp(-1, 1)
            codes = codec.encode(some, 24.0)
            assert torch.equal(codes.indices, torch.cat([frame for frame, _ in frames], 2))
            torch.testing.assert_close(codec.decode(codes), y, rtol=0, atol=1e-5)


# -- against transformers ------------------------------------------------------------------------

HUB = {
    "24khz": {"sampling_rate": 24_000, "target_bandwidths": [10.0, 20.0, 40.0]},
    "32khz": {
        "sampling_rate": 32_000, "target_bandwidths": [58.696], "use_causal_conv": False, "use_conv_shortcut": False,
        "codebook_size": 2048,
    },
    "48khz": {
        "sampling_rate": 2_400, "target_bandwidths": [1.0, 2.0, 4.0], "audio_channels": 2, "normalize": True,
        "chunk_length_s": 1.0, "overlap": 0.01, "norm_type": "time_group_norm", "use_causal_conv": False,
    },
}  # fmt: skip


def hub_model(kind: str, **more):
    pytest.importorskip("transformers")
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    sizes = {"num_filters": 8, "upsampling_ratios": [4, 3, 2], "hidden_size": 16, "num_residual_layers": 2}
    model = EncodecModel(EncodecConfig(**{**sizes, **HUB[kind], **more})).eval()
    liven(model, [layer.codebook for layer in model.quantizer.layers])
    return model


@pytest.mark.parametrize("kind", sorted(HUB))
def test_transformers_models(tmp_path, kind):
    model = hub_model(kind)
    model.save_pretrained(tmp_path)
    codec = codecs.build("audio/encodec", checkpoint=tmp_path)
    assert codec.config["kind"] == kind and codec.spec.sample_rate == HUB[kind]["sampling_rate"]
    assert list(codec.settings.values) == HUB[kind]["target_bandwidths"]
    seen = set()
    for samples, bandwidth in itertools.product((1, 5, 100, 6_100), codec.settings.values):
        x = sound(samples, codec.spec.channels)
        with torch.no_grad():
            wanted, scales, padded = model.encode(x, bandwidth=bandwidth, return_dict=False)
            y = model.decode(wanted, scales, last_frame_pad_length=padded, return_dict=False)[0][..., :samples]
        codes = codec.encode(x, bandwidth)
        flat = torch.cat([frame[..., : frame.shape[-1] - padded * (frame is wanted[-1])] for frame in wanted], 2)
        assert torch.equal(codes.indices, flat[..., : codes.indices.shape[2]])
        torch.testing.assert_close(codec.decode(codes), y.clamp(-1, 1), rtol=0, atol=1e-5)
        seen |= set(codes.indices.unique().tolist())
    assert y.std() > 0.05 and len(seen) > 100


def as_hub_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of the package to the names of transformers."""
    pairs = (
        (".model.", ".layers."), ("convtr.convtr", "conv"), ("conv.conv", "conv"), ("conv.norm", "norm"),
        ("convtr.norm", "norm"), ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"), ("vq.layers", "layers"), ("_codebook", "codebook"),
    )  # fmt: skip
    out = {}
    for name, value in state.items():
        for a, b in pairs:
            name = name.replace(a, b)
        out[name] = value
    return out


def test_every_layout_gives_the_same_codec(tmp_path, small):
    from safetensors.torch import save_file

    model, path, codec = small["24khz"]
    hub = hub_model("24khz", num_lstm_layers=1, target_bandwidths=[10.0, 20.0, 40.0, 80.0])
    state = as_hub_names(model.state_dict())
    hub.load_state_dict(state)
    hub.save_pretrained(tmp_path / "new")
    (tmp_path / "old").mkdir()
    old = {k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in hub.state_dict().items()}
    old = {k.replace("parametrizations.weight.original1", "weight_v"): v.contiguous() for k, v in old.items()}
    save_file(old, tmp_path / "old" / "model.safetensors")
    (tmp_path / "old" / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    torch.save({"best_state": model.state_dict(), "xp.cfg": "seed: 1"}, tmp_path / "compression.bin")
    for source in (tmp_path / "new", tmp_path / "new" / "model.safetensors", tmp_path / "old"):
        again = codecs.build("audio/encodec", checkpoint=str(source), sample_rate=24_000)
        assert again.config == codec.config and again.fingerprint == codec.fingerprint
    for source in (path, tmp_path / "compression.bin"):
        again = codecs.build("audio/encodec", checkpoint=source, sample_rate=24_000, bandwidths=[10.0, 20, 40, 80.0])
        assert again.config == codec.config and again.fingerprint == codec.fingerprint


def test_saved_and_loaded_without_the_foreign_file(tmp_path, small):
    for kind, (_, _, codec) in small.items():
        codecs.save(codec, tmp_path / kind)
        again = codecs.load(tmp_path / kind)
        assert again.fingerprint == codec.fingerprint and again.config == codec.config
        x = sound(3_000, codec.spec.channels)
        (data,) = codec.compress(x, codec.settings.values[1])
        assert torch.equal(codecs.decompress(data), again.decode(again.encode(x, codec.settings.values[1])))


def test_fewer_codebooks_have_lower_bandwidths(tmp_path, published):
    model, _, codec = published["24khz"]
    state = {k: v for k, v in model.state_dict().items() if ".layers." not in k or int(k.split(".")[3]) < 5}
    torch.save(state, tmp_path / "five.th")
    five = codecs.build("audio/encodec", checkpoint=tmp_path / "five.th")
    assert five.settings.values == (1.5, 3.0, 3.75) and len(five.spec.codebook_sizes) == 5
    x = sound(2_000)
    assert torch.equal(five.encode(x).indices, codec.encode(x).indices[:, :5])


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["24khz", "48khz"])
def test_a_batch_is_its_items(small, kind):
    codec = small[kind][2]
    parts = [sound(6_100, codec.spec.channels, seed) for seed in range(3)]
    together = codec.encode(torch.cat(parts))
    decoded = codec.decode(together)
    for i, x in enumerate(parts):
        alone = codec.encode(x)
        assert torch.equal(alone.indices[0], together.indices[i])
        torch.testing.assert_close(codec.decode(alone)[0], decoded[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["24khz", "48khz"])
def test_unequal_sizes_decode_as_if_alone(small, kind):
    """With reflection the start depends on the end of a short item, with normalization on all of it."""
    codec = small[kind][2]
    parts = [sound(samples, codec.spec.channels, samples) for samples in (30, 6_100, 2_390, 1)]
    settings = (codec.settings.values[-1], *codec.settings.values[:3])
    data = [codec.compress(x, s)[0] for x, s in zip(parts, settings, strict=True)]
    codes = bitstream.read(codec, data)
    assert codes.quantizers().tolist() == [codec.count(s) for s in settings]
    y = codec.decode(codes)
    assert y.shape == (4, codec.spec.channels, 6_100)
    for i, (x, s) in enumerate(zip(parts, settings, strict=True)):
        assert torch.equal(y[i : i + 1, :, : x.shape[-1]], codec.decode(codec.encode(x, s)))
        assert not y[i, :, x.shape[-1] :].any()
    bits = rate.nominal(codec.spec, codes)
    alone = [rate.nominal(codec.spec, codec.encode(x, s)) for x, s in zip(parts, settings, strict=True)]
    assert torch.equal(bits, torch.cat(alone))


def test_scales_count_as_bits_and_are_kept(small):
    codec = small["48khz"][2]
    x = sound(6_100, 2)
    codes = codec.encode(x, 4.0)
    assert codes.side["scale"].shape == (1, 3) and codec.side_shapes((6_100,)) == {"scale": (3,)}
    first = x[0, :, :2400].mean(0).square().mean().sqrt()
    assert codes.side["scale"][0, 0].item() == pytest.approx(first.item(), rel=1e-5)
    positions = 100 + 100 + math.ceil((6_100 - 2 * 2_376) / 24)
    assert codes.indices.shape == (1, 4, positions)
    assert rate.nominal(codec.spec, codes).item() == positions * 40 + 3 * 32
    again = bitstream.read(codec, codec.compress(x, 4.0))
    assert torch.equal(again.side["scale"], codes.side["scale"]) and torch.equal(again.indices, codes.indices)
    assert torch.equal(codec.decompress(codec.compress(x, 4.0)), codec.decode(codes))
    wrong = Codes(codes.indices, codes.sizes, None, {"scale": torch.full((1, 3), math.nan)})
    with pytest.raises(ValueError, match="NaN") as error:
        codec.decode(wrong)
    assert one_line(error)
    silent = codec.decode(codec.encode(torch.zeros(1, 2, 3_000)))
    assert silent.abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["24khz", "48khz"])
def test_lower_bandwidths_are_prefixes(small, kind):
    codec = small[kind][2]
    assert codec.spec.ordered and codec.settings.default == codec.settings.values[-1]
    x = sound(5_000, codec.spec.channels)
    full = codec.encode(x)
    for bandwidth in codec.settings.values:
        few, cut = codec.encode(x, bandwidth), codec.truncate(full, bandwidth)
        assert torch.equal(few.indices, cut.indices) and torch.equal(codec.decode(few), codec.decode(cut))
    kbps = codec.settings.values[1] * 1.3
    met = codec.encode(x, Target(kbps=kbps))
    spent = rate.kbps(rate.coded(bitstream.write(codec, met)), met, codec.spec)
    assert spent.item() <= kbps and 1 <= met.quantizers().item() < len(codec.spec.codebook_sizes)


def test_the_first_frames_depend_on_the_next(small):
    """This is why no EnCodec has `spec.causal`."""
    codec = small["24khz"][2]
    x = sound(2_400)
    other = x.clone()
    other[..., 72:] = 0.5
    assert not codec.spec.causal
    a, b = codec.encode(x).indices, codec.encode(other).indices
    assert (a != b)[..., 0].any()
    later = x.clone()
    later[..., 1_200:] = 0.5
    assert torch.equal(codec.encode(later).indices[..., :50], a[..., :50])


@pytest.mark.parametrize("kind", ["24khz", "48khz"])
def test_training(kind):
    torch.manual_seed(0)
    hz = {"24khz": 24_000, "48khz": 2_400}[kind]
    codec = codecs.build("audio/encodec", sample_rate=hz, kind=kind, bandwidths=[hz / 2400], lstm=1, **SMALL).train()
    x = torch.cat([sound(1_200, codec.spec.channels, seed) for seed in range(4)])
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    errors = []
    for _ in range(40):
        y, loss = codec.reconstruct(x)
        error = (y[..., : x.shape[-1]] - x).abs().mean()
        optimizer.zero_grad()
        (error + 0.25 * loss).backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.8 * errors[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codec.parameters())
    if kind == "48khz":
        with pytest.raises(ValueError, match="at most 2400 samples, one chunk, got 2401") as error:
            codec.reconstruct(torch.zeros(1, 2, 2_401))
        assert one_line(error)


def test_imported_codebooks_change_slowly_in_training(small):
    import copy

    codec = copy.deepcopy(small["24khz"][2]).train()
    before = codec.quantizer.codebook.clone()
    codec.reconstruct(sound(2_400))
    moved = (codec.quantizer.codebook - before).norm(dim=2) / before.norm(dim=2)
    assert codec.quantizer.started.all() and moved.median() < 0.02


def test_defaults_are_the_published_architecture(published):
    for kind, (_, _, codec) in published.items():
        fresh = codecs.build("audio/encodec", sample_rate=codec.spec.sample_rate)
        assert {k: v.shape for k, v in fresh.state_dict().items()} == {
            k: v.shape for k, v in codec.state_dict().items()
        }, kind
        assert fresh.spec == codec.spec and fresh.settings == codec.settings
        x = sound(1_000, fresh.spec.channels)
        assert fresh.decode(fresh.encode(x, 6.0)).shape == x.shape


# -- errors ----------------------------------------------------------------------------------------


def complaint(match: str, error: type[Exception] = ValueError, **arguments) -> None:
    with pytest.raises(error, match=match) as raised:
        codecs.build("audio/encodec", **arguments)
    assert one_line(raised)


def test_wrong_settings_and_arguments(small):
    codec = codecs.build("audio/encodec", filters=2, dim=4)
    with pytest.raises(
        ValueError, match=r"bandwidth of .* one of \(1.5, 3.0, 6.0, 12.0, 24.0\) kbit/s, got 7.0"
    ) as error:
        codec.encode(sound(100), 7.0)
    assert one_line(error)
    with pytest.raises(ValueError, match="must have 2 channels, got 1"):
        small["48khz"][2].encode(sound(100))
    complaint("kind of .* must be one of 24khz, 32khz, 48khz, got '44khz'", kind="44khz")
    complaint("channels of .*from 1 to 2, got 3", channels=3)
    complaint("ratios", ratios=[])
    complaint("rising", bandwidths=[3.0, 1.5])
    complaint("rising", bandwidths="6")
    complaint("at most 64 quantizers, .* needs 640", bandwidths=[480.0])
    complaint("sample_rate of .*, got 'x'", sample_rate="x")


def test_checkpoints_that_do_not_fit(tmp_path, small, published):
    complaint(r"no checkpoint at .*nowhere\.th", FileNotFoundError, checkpoint=tmp_path / "nowhere.th")
    complaint("sample_rate must be that .*24khz model, got 48000", checkpoint=published["24khz"][1], sample_rate=48_000)
    complaint("sample_rate must be that .*48khz model, got 24000", checkpoint=published["48khz"][1], sample_rate=24_000)
    complaint("does not state its sample rate", checkpoint=small["24khz"][1])
    complaint("takes no 'filters'", checkpoint=small["24khz"][1], filters=4)
    (tmp_path / "bytes.th").write_bytes(b"no checkpoint")
    complaint("cannot be read as a checkpoint", checkpoint=tmp_path / "bytes.th")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.th")
    complaint("must be an EnCodec", checkpoint=tmp_path / "other.th")
    state = small["24khz"][0].state_dict()
    for name, changed in {
        "lacking": {k: v for k, v in state.items() if k != "decoder.model.0.conv.conv.bias"},
        "stray": {**state, "discriminator.weight": torch.zeros(1)},
        "hole": {k: v for k, v in state.items() if ".layers.1." not in k},
    }.items():
        torch.save(changed, tmp_path / f"{name}.th")
        complaint({"lacking": "lacks decoder", "stray": "stray discriminator", "hole": "must be alike"}[name],
                  checkpoint=tmp_path / f"{name}.th", sample_rate=24_000)  # fmt: skip


def test_unsupported_configs(tmp_path):
    model = hub_model("24khz")
    model.save_pretrained(tmp_path)
    complaint("sample_rate of .* must be 24000, got 16000", checkpoint=tmp_path, sample_rate=16_000)
    text = (tmp_path / "config.json").read_text()
    for old, new, said in (
        ('"kernel_size": 7', '"kernel_size": 5', "kernel_size in .* must be 7 for audio/encodec, got 5"),
        ('"pad_mode": "reflect"', '"pad_mode": "constant"', "pad_mode in .*got 'constant'"),
        ('"normalize": false', '"normalize": true', "must combine layers"),
        ('"use_causal_conv": true', '"use_causal_conv": false', "must combine layers"),
        ('"model_type": "encodec"', '"model_type": "dac"', "model_type"),
    ):
        assert old in text
        (tmp_path / "config.json").write_text(text.replace(f" {old}", f" {new}"))
        complaint(said, checkpoint=tmp_path)


def test_damaged_containers_are_refused(small):
    codec = small["48khz"][2]
    (data,) = codec.compress(sound(2_500, 2))
    for damaged in (data[:-1], data[:20] + bytes([data[20] ^ 1]) + data[21:]):
        with pytest.raises(BitstreamError):
            codec.decompress([damaged])
