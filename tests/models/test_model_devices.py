"""Models generate and decode on the device that they are on."""

from __future__ import annotations

import copy

import pytest
import torch
from support import second_device
from support.codecs import tiny
from support.omni import fresh, picture, sound, untrained_decoder

from tokenloom import models
from tokenloom.codecs import rate


def test_omni_reads_and_generates_on_its_device():
    omni = fresh()
    prompts = [(["red", sound(60)], "image"), ([picture()], "flexible")]
    how = {"seed": 1, "temperature": 0.9, "top_k": 20, "top_p": 0.9, "guidance": 1.5}
    expected = [omni.generate(prompt, to, **how)[0] for prompt, to in prompts]
    with second_device.active() as second:
        moved = copy.deepcopy(omni).to(second)
        assert {moved.device, *(channel.codec.device for channel in moved.vocabulary.channels.values())} == {second}
        for (prompt, to), one in zip(prompts, expected, strict=True):
            given = [x.to(second) if to == "flexible" else x for x in prompt]
            (found,) = moved.generate(given, to, **how)
            assert found.device == second and torch.allclose(found.cpu(), one, atol=1e-5)
        assert moved.statistics.modelled[0] > 0
        moved.generate([sound(60)], "flexible", best_of=2, seed=0)
        with pytest.warns(UserWarning, match="context ended"):  # there is room for a few ids
            moved.generate(["x" * 152], None, seed=2)


def test_the_cache_and_the_whole_sequence_agree_on_a_device():
    omni = fresh()
    with second_device.active() as second:
        moved = copy.deepcopy(omni).to(second)
        prompt = moved.prompts.encode([["red"]])[0]
        network, vocabulary = moved.transformer, moved.vocabulary
        places = vocabulary.states(prompt)[1]
        whole = network(prompt[None].to(second), places[None].to(second))
        cache = network.new_cache(1)
        steps = [network(prompt[None, i : i + 1].to(second), places[None, i : i + 1].to(second), cache=cache)
                 for i in range(len(prompt))]  # fmt: skip
        assert torch.allclose(torch.cat(steps, 1).cpu(), whole.cpu(), atol=1e-4)


@pytest.mark.parametrize("name", ["image/rvq", "image/flex", "audio/rvq"])
@pytest.mark.parametrize("sampler", ["shortcut", "heun"])
def test_diffusion_decoders_decode_on_their_device(name, sampler, tmp_path):
    decoder = untrained_decoder(tmp_path, name)
    codec = tiny(name)
    x = torch.stack([picture(33, 26), picture(33, 26)]) if name.startswith("image") else sound(300)[None]
    codes = codec.encode(x)
    expected = decoder.decode(codes, 2, seed=3, sampler=sampler)
    with second_device.active() as second:
        moved = models.load(tmp_path / "decoder", device=second)
        found = moved.decode(codes, 2, seed=3, sampler=sampler)
        assert moved.device == found.device == second
        assert torch.allclose(found.cpu(), expected, atol=1e-4)
        assert torch.allclose(rate.nominal(codec.spec, codes), rate.nominal(codec.spec, codes.to(second)))
