"""Diffusion decoders: flows, `decode` and checkpoints."""

from __future__ import annotations

import math
import re

import pytest
import torch
import yaml
from support.codecs import MIDDLE, TINY, one_line, structured, tiny

from tokenloom import codecs, models
from tokenloom.codecs import Codes, LatentCodec, Modality
from tokenloom.models import DiffusionDecoder
from tokenloom.models.diffusion import samplers, unet
from tokenloom.models.diffusion.codec import DiffusionCodec
from tokenloom.models.diffusion.flow import Conditioning, Flow, build_flow
from tokenloom.models.diffusion.planes import planes

LATENT = [name for name in codecs.names() if issubclass(codecs.registry.codec_class(name), LatentCodec)]
SMALL = {"patch": 2, "widths": [8, 16], "depths": [1, 1]}


def decoder_of(codec, **config) -> DiffusionDecoder:
    """Random weights that have an effect at every step."""
    torch.manual_seed(0)
    flow = build_flow(codec, **{**SMALL, **config})
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.05)
    flow.law.copy_(torch.tensor([-3.0, -0.5]))
    return DiffusionDecoder(codec, flow).eval()


def codes_of(codec, size=None, seed=0) -> Codes:
    return codec.encode(structured(codec, size or MIDDLE[codec.spec.modality], seed))


# -- decode, for every learned codec -------------------------------------------------------------


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("conditional", [False, True])
def test_decoders_accept_the_codes_of_every_codec(name, conditional):
    codec = tiny(name)
    decoder = decoder_of(codec, conditional=conditional)
    codes = codes_of(codec)
    plain, painted = codec.decode(codes), decoder.decode(codes, steps=2)
    assert painted.shape == plain.shape and painted.dtype == torch.float32
    low = -1 if codec.spec.modality is Modality.AUDIO else 0
    assert painted.min() >= low and painted.max() <= 1 and not torch.equal(painted, plain)
    assert torch.equal(painted, decoder.decode(codes, steps=2, seed=0))
    assert not torch.equal(painted, decoder.decode(codes, steps=2, seed=1))


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_any_size_that_the_codec_takes(name, size):
    codec = tiny(name)
    axes = len(MIDDLE[codec.spec.modality])
    codes = codes_of(codec, (size,) * axes)
    assert decoder_of(codec).decode(codes, steps=1).shape == codec.decode(codes).shape


@pytest.mark.parametrize("name", ["image/rvq", "audio/rvq"])
def test_a_batch_of_several_sizes_decodes_like_single_items(name):
    codec = tiny(name)
    decoder = decoder_of(codec)
    big, small = (MIDDLE[codec.spec.modality], tuple(n // 2 for n in MIDDLE[codec.spec.modality]))
    first, second = codes_of(codec, big), codes_of(codec, small, seed=1)
    grid = first.indices.shape[2:]
    padded = torch.zeros_like(first.indices)
    padded[(..., *(slice(n) for n in second.indices.shape[2:]))] = second.indices
    both = Codes(torch.cat([first.indices, padded]), torch.cat([first.sizes, second.sizes]))
    assert both.indices.shape[2:] == grid
    painted = decoder.decode(both, steps=2)
    assert torch.allclose(painted[:1], decoder.decode(first, steps=2), atol=1e-5)
    inside = (1, slice(None), *(slice(n) for n in small))
    beyond = painted[1].clone()
    beyond[inside[1:]] = 0
    assert not beyond.any() and painted[inside].any()
    # noise depends on the seed and the codes of an item, not on the batch
    assert torch.allclose(painted[inside], decoder.decode(second, steps=2)[0], atol=1e-5)
    through = DiffusionCodec(decoder, steps=2)
    data = through.compress(structured(codec, big)) + through.compress(structured(codec, small, 1))
    assert torch.allclose(through.decompress(data), painted, atol=1e-5)


def test_noise_differs_between_codes():
    codec = tiny("image/fsq")
    decoder = decoder_of(codec)
    batch = torch.cat([structured(codec, (40, 40), seed) for seed in (0, 1)])
    codes = codec.encode(batch)
    added = decoder.decode(codes, 1, temperature=1.0) - decoder.decode(codes, 1, temperature=0.0)
    assert torch.corrcoef(added.flatten(1))[0, 1] < 0.5


def test_temperature_scales_the_noise_only():
    codec = tiny("image/fsq")
    decoder = decoder_of(codec)
    codes = codes_of(codec)
    cold = [decoder.decode(codes, 2, seed, temperature=0.0) for seed in (0, 1)]
    assert torch.equal(*cold)
    apart = [(decoder.decode(codes, 2, 0, temperature=t) - cold[0]).square().mean().item() for t in (0.2, 0.6, 1.0)]
    assert 0 < apart[0] < apart[1] < apart[2]
    assert torch.equal(decoder.decode(codes, 2), decoder.decode(codes, 2, temperature=decoder.temperature))


def test_steps_default_to_the_decoders_own():
    codec = tiny("image/fsq")
    decoder, codes = decoder_of(codec), codes_of(codec)
    assert decoder.steps == 4
    assert torch.equal(decoder.decode(codes), decoder.decode(codes, steps=4))
    assert not torch.equal(decoder.decode(codes), decoder.decode(codes, steps=1))


def test_samplers_differ_and_meet_in_many_steps():
    codec = tiny("image/fsq")
    decoder, codes = decoder_of(codec), codes_of(codec)
    few = decoder.decode(codes, 2, sampler="euler") - decoder.decode(codes, 2, sampler="heun")
    many = decoder.decode(codes, 60, sampler="euler") - decoder.decode(codes, 60, sampler="heun")
    assert 0 < many.abs().mean() < 0.2 * few.abs().mean()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "steps .* got 0"), ({"steps": 2.5}, "steps .* got 2.5"), ({"seed": -1}, "seed .* got -1"),
        ({"seed": 1.5}, "seed"),
        ({"sampler": "ddim"}, "shortcut, euler, heun"), ({"temperature": 1.5}, "temperature .* got 1.5"),
        ({"temperature": math.nan}, "temperature"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_one_line(change, says):
    codec = tiny("image/fsq")
    with pytest.raises(ValueError, match=says) as error:
        decoder_of(codec).decode(codes_of(codec), **change)
    assert one_line(error)


def test_codes_of_another_codec_are_refused():
    with pytest.raises(ValueError, match="image/rvq") as error:
        decoder_of(tiny("image/rvq")).decode(codes_of(tiny("audio/rvq")))
    assert one_line(error)


# -- the flow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_before_training_a_conditional_flow_is_that_of_a_gaussian(steps):
    """The last layer is zero at first, so only the preconditioning remains. It is exact for variance 1."""
    flow = Flow(3, latents=None, positioned=False, noise=0.6, conditional=True, **SMALL)
    given = Conditioning(torch.zeros(2, 3, 8, 8), torch.zeros(2), None)
    z = 0.6 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def average(z, t, d):
        return flow.average(z, torch.full((2,), t), torch.full((2,), d), given)

    end = samplers.shortcut(average, z, samplers.times(steps))
    assert torch.allclose(end, z / 0.6, atol=1e-5)
    followed = samplers.heun(lambda z, t: average(z, t, 0.0), z, samplers.times(200))
    assert torch.allclose(followed, z / 0.6, atol=1e-3)


def test_an_unconditional_flow_sees_the_picture_and_the_rate_alone():
    flow = decoder_of(tiny("image/fsq")).flow
    generator = torch.Generator().manual_seed(0)
    plain, z = (torch.randn(1, 3, 16, 16, generator=generator) for _ in range(2))
    rate, t, d = torch.tensor([-0.4]), torch.tensor([0.3]), torch.tensor([0.25])
    moved = torch.randn(1, 3, 16, 16, generator=generator)
    sigma = flow.scale(Conditioning(plain, rate, None))
    one = flow.residual(z, t, d, Conditioning(plain, rate, None))
    assert torch.allclose(
        one, flow.residual(z + moved, t, d, Conditioning(plain - sigma * moved, rate, None)), atol=1e-5
    )
    assert not torch.allclose(one, flow.residual(z, t, d, Conditioning(plain, rate + 0.2, None)), atol=1e-4)


def test_the_law_of_errors_is_fitted_over_rates():
    flow = build_flow(tiny("image/rvq"), **SMALL)
    rates = torch.tensor([-0.9, -0.5, -0.1])
    flow.fit(rates, torch.exp2(-3 - 1.7 * rates))
    assert flow.law.tolist() == pytest.approx([-3, -1.7], abs=1e-5)
    assert torch.allclose(
        flow.scale(Conditioning(torch.zeros(3, 1, 1, 1), rates, None)).flatten(), torch.exp2(-3 - 1.7 * rates)
    )
    flow.fit(torch.full((3,), -0.5), torch.full((3,), 0.25))  # one rate alone: no slope
    assert flow.law.tolist() == pytest.approx([-2, 0], abs=1e-5)


def test_latents_align_with_their_codes():
    codec = tiny("image/rvq")  # stride 8
    decoder = decoder_of(codec, conditional=True, widths=[8, 8, 8], depths=[0, 0, 0])  # places of 8 pixels
    codes = codes_of(codec, (45, 38))
    given = decoder.conditioning(codes)
    assert torch.equal(given.latents, codec.embed(codes))
    finer = decoder_of(codec, conditional=True, widths=[8, 8], depths=[0, 0])  # places of 4
    twice = codec.embed(codes).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(finer.conditioning(codes).latents, twice[:, :, :12, :10])


# -- the network ---------------------------------------------------------------------------------


def test_tiles_change_nothing(monkeypatch):
    torch.manual_seed(0)
    network = unet.UNet(4, 3, numbers=2, latents=5, patch=2, widths=[8, 12, 16], depths=[1, 2, 1])
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.15)
    x, numbers, latents = torch.randn(2, 4, 251, 170), torch.rand(2, 2), torch.randn(2, 5, 32, 22)
    with torch.no_grad():
        whole = network(x, numbers, latents)
        touched = x.clone()
        touched[:, :, 120, 80] += 3
        moved = ((network(touched, numbers, latents) - whole).abs().amax((0, 1)) > 0).nonzero()
        monkeypatch.setattr(unet, "TILE", 64)
        tiled = network(x, numbers, latents)
    assert torch.equal(whole, tiled)
    assert (moved - torch.tensor([120, 80])).abs().max() <= network.reach


# -- planes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 100, 4001])
def test_a_spectrogram_with_its_own_phases_is_the_sound(samples):
    codec = tiny("audio/rvq")
    of, x = planes(codec.spec), structured(codec, (samples,))
    assert torch.allclose(of.inverse(of.forward(x), x), x, atol=2e-4)
    assert of.forward(torch.zeros(1, 1, 3000)).eq(-1).all()  # −80 dB
    sine = torch.sin(2 * math.pi * 1000 / 8000 * torch.arange(8000))[None, None]
    assert of.forward(sine).max().item() == pytest.approx(1, abs=0.01)


def test_refined_phases_fit_the_magnitudes():
    codec = tiny("audio/rvq")
    of = planes(codec.spec)
    x, other = structured(codec, (6000,)), structured(codec, (6000,), seed=3)
    wanted = of.forward(x)
    rough, refined = (of.inverse(wanted, other, refine=s) for s in (False, True))
    assert (of.forward(refined) - wanted).abs().mean() < 0.8 * (of.forward(rough) - wanted).abs().mean()


# -- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["float32", "int8"])
def test_a_loaded_decoder_decodes_like_the_saved_one(tmp_path, store):
    codec = tiny("image/rvq")
    decoder = decoder_of(codec)
    models.save(decoder, tmp_path / "a", store=store, trained={"steps": 3})
    once = models.load(tmp_path / "a")
    assert isinstance(once, DiffusionDecoder) and not once.training
    assert once.config == decoder.config and once.codec.fingerprint == codec.fingerprint
    codes = codes_of(codec)
    if store == "float32":
        assert torch.equal(once.decode(codes), decoder.decode(codes))
    models.save(once, tmp_path / "b", store=store, trained={"steps": 3})
    for file in ("model.safetensors", "config.yaml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_shipped_codec_is_not_written_beside_it(tmp_path):
    decoder = models.build_decoder({"codec": "digits-rvq", **SMALL})
    models.save(decoder, tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["decoder"]["codec"] == "digits-rvq"
    assert not (tmp_path / "codec").exists()
    assert models.load(tmp_path).codec.fingerprint == codecs.load("digits-rvq").fingerprint


def test_the_decoder_of_a_codec_is_the_one_that_was_loaded(tmp_path):
    torch.manual_seed(272)
    codec = codecs.build("image/bsq", **TINY["image/bsq"])  # its own weights: no other test loads a decoder for them
    with pytest.raises(ValueError, match="image/bsq") as error:
        models.decoder_for(codec)
    assert one_line(error)
    models.save(decoder_of(codec), tmp_path)
    decoder = models.load(tmp_path)
    assert models.decoder_for(codec) is decoder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"widths": [8]}, "depths"), ({"widths": [8, 99]}, "another architecture"), ({"codec": "nothing"}, "nothing"),
        ({"colour": 3}, "no option 'colour'"), ({"noise": "loud"}, "got 'loud'"), ({"steps": 0}, "to 1000, got 0"),
        ({"widths": [2048] * 6, "depths": [32] * 6}, "another architecture"),
        ({"codec": None}, "decoder.codec must be"), ({"latents": 5}, "no option 'latents'"),
        ({"conditional": 1}, "true or false, got 1"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_one_line(tmp_path, change, says):
    models.save(decoder_of(tiny("image/rvq")), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["decoder"] |= change
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        models.load(tmp_path)
    assert one_line(error)


def test_a_decoder_of_another_codec_is_refused_with_both_fingerprints(tmp_path):
    models.save(decoder_of(tiny("image/rvq")), tmp_path)
    torch.manual_seed(5)
    other = codecs.build("image/rvq", **tiny("image/rvq").config)
    codecs.save(other, tmp_path / "codec")
    with pytest.raises(ValueError, match=tiny("image/rvq").fingerprint.hex()) as error:
        models.load(tmp_path)
    assert one_line(error) and other.fingerprint.hex() in str(error.value)


@pytest.mark.parametrize("source", ["image/jpeg", "no-such-codec", None, 5])
def test_a_decoder_stands_behind_a_learned_codec(source):
    with pytest.raises(ValueError) as error:
        models.build_decoder({"codec": source})
    assert one_line(error)


@pytest.mark.parametrize("name", models.decoders())
def test_shipped_decoders_are_within_a_decibel_of_their_codec(name):
    decoder = models.load(name)
    assert isinstance(decoder, DiffusionDecoder) and name.startswith(diffusion_name(decoder))
    size = (64, 64) if decoder.codec.spec.modality is Modality.IMAGE else (8000,)
    x = structured(decoder.codec, size)
    codes = decoder.codec.encode(x)
    plain, painted = decoder.codec.decode(codes), decoder.decode(codes, steps=1)
    of = decoder.planes
    errors = [(of.forward(x) - of.forward(y)).square().mean().item() for y in (plain, painted)]
    assert errors[1] < errors[0] * 10**0.25  # of a picture unlike those that it was trained on


def diffusion_name(decoder: DiffusionDecoder) -> str:
    return next(n for n in codecs.shipped() if codecs.load(n).fingerprint == decoder.codec.fingerprint)


def test_noise_is_a_function_of_seed_and_item():
    assert torch.equal(samplers.noise(3, 5, (2, 2)), samplers.noise(3, 5, (2, 2)))
    many = torch.stack([samplers.noise(s, r, (50, 50)) for s in range(3) for r in range(3)])
    assert abs(many.mean().item()) < 0.03 and many.std().item() == pytest.approx(1, abs=0.03)
    assert (torch.corrcoef(many.flatten(1)) - torch.eye(9)).abs().max() < 0.1
