"""Omni models: prompts, results of all modalities, sampling, statistics and checkpoints."""

from __future__ import annotations

import functools
import gc
import math
import pickle
import shutil
import struct
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.codecs import one_line, structured, tiny
from support.omni import CONTEXT, fresh, picture, sound, untrained_decoder

from tokenloom import codecs, models
from tokenloom.codecs import Codes, Target, batches, media
from tokenloom.models import Omni, dependencies, generate
from tokenloom.models.omni import scoring
from tokenloom.models.transformer import Transformer
from tokenloom.models.vocabulary import DOCUMENT, STOP, Channel, Vocabulary, segments, truncation


@functools.cache
def omni() -> Omni:
    return fresh()


def greedy(segments: list, to: str | None, **options) -> object:
    return omni().generate(segments, to, temperature=0, seed=0, **options)[0]


# -- what comes out ---------------------------------------------------------------------------------


def test_each_modality_has_its_shape_and_range():
    image = omni().generate(["red"], "image", n=2, seed=0)
    assert [x.shape for x in image] == [(3, 32, 24)] * 2 and not torch.equal(*image)
    assert all(x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1 for x in image)
    (audio,) = omni().generate(["seven"], "audio", seed=0)
    assert audio.ndim == 2 and audio.shape[0] == 1 and audio.shape[1] >= 1 and audio.abs().max() <= 1
    (text,) = omni().generate([picture()], "text", seed=0)
    assert isinstance(text, str)
    (flexible,) = omni().generate([], "flexible", seed=0)
    assert flexible.shape[0] == 3
    assert omni().sample_rate == 8000


def test_without_a_modality_the_model_chooses():
    results = omni().generate(["three plus four"], None, n=8, seed=1)
    assert all(isinstance(result, list) for result in results) and any(results)
    for segment in (segment for result in results for segment in result):
        assert isinstance(segment, str) or segment.ndim in (2, 3)


def test_any_decodes_the_segments_behind_the_prompt_and_no_others(monkeypatch):
    """The samples are set by hand: a text, an image, STOP."""
    vocabulary = omni().vocabulary
    codes = vocabulary.channel("image").encode(picture()[None])
    (said,), (shown,) = (
        vocabulary.segment("text/bytes", vocabulary.channel("text").encode(["hé"])),
        vocabulary.segment("pictures", codes),
    )
    new = torch.cat([said, shown, torch.tensor([STOP])])
    monkeypatch.setattr(generate, "sample", lambda transformer, grammar, prompts, *_, **__: [new] * len(prompts))
    for result in omni().generate(["a prompt", picture(), sound()], None, n=2, seed=0):
        assert result[0] == "hé" and len(result) == 2
        assert torch.allclose(result[1], tiny("image/fsq").decode(codes)[0], atol=1e-5)


@pytest.mark.parametrize("to", ["text", "pictures", "flexible", "audio", None])
def test_samples_of_random_weights_decode(to):
    """Sizes are sampled too, and many segments exceed the context."""
    with pytest.warns(UserWarning, match="the context ended within a segment"):
        results = fresh(size=None, longest=400).generate(["a prompt"], to, n=60, seed=0)
    assert len(results) == 60
    for signal in (x for result in results for x in (result if to is None else [result])):
        assert isinstance(signal, str) or (signal.numel() and signal.isfinite().all())


# -- what goes in -----------------------------------------------------------------------------------


def test_the_prompt_matters_and_its_order():
    a = greedy(["red", picture()], "image")
    assert torch.equal(a, greedy(["red", picture()], "image"))
    for other in (["blue", picture()], [picture(), "red"], ["red"], ["red", sound()]):
        assert not torch.equal(a, greedy(other, "image"))


def test_all_forms_of_a_signal_give_the_same_ids(tmp_path):
    x = media.to_uint8(picture()).float() / 255
    pixels = (255 * x).round().byte().permute(1, 2, 0).numpy()
    media.write(x, tmp_path / "x.png")
    media.write("red", tmp_path / "x.txt")
    media.write(sound(), tmp_path / "x.wav", sample_rate=8000)
    waveform = media.read(tmp_path / "x.wav")
    forms = [[x, waveform, "red"], [Image.fromarray(pixels), tmp_path / "x.wav", tmp_path / "x.txt"],
             [pixels, waveform.numpy(), "red"], [tmp_path / "x.png", waveform, "red"]]  # fmt: skip
    results = [greedy(form, "image") for form in forms]
    assert all(torch.equal(result, results[0]) for result in results)


def test_sounds_of_another_rate_are_brought_to_the_models(tmp_path):
    x = sound(160)
    media.write(media.resample(x, 8000, 16000).repeat(2, 1), tmp_path / "x.flac", sample_rate=16000)
    greedy([tmp_path / "x.flac"], "text")
    assert omni().statistics.prompt_tokens == [_length([x]) + 1]


def _length(segments: list) -> int:
    return len(omni().prompts.encode([segments])[0])


def test_an_image_of_another_size_is_resized_with_a_warning():
    with pytest.warns(UserWarning, match="50 x 40 pixels was resized to the model's 24 x 32"):
        greedy([picture(40, 50)], "text")
    assert omni().statistics.prompt_tokens == [_length([picture()]) + 1]


@pytest.mark.parametrize("empty", [[], [""], ["", ""]])
def test_an_empty_prompt_is_a_sample_without_one(empty):
    assert torch.equal(greedy(empty, "image"), greedy([], "image"))
    greedy(empty, "image")
    begin_and_sizes = 3
    assert omni().statistics.prompt_tokens == [1 + begin_and_sizes]


def test_invalid_segments_are_refused():
    for wrong, says in (
        (3.5, "got float"),
        (torch.zeros(5), "got Tensor (5,)"),
        (torch.zeros(1, 3, 32, 24), "got Tensor (1, 3, 32, 24)"),
        (torch.full((3, 32, 24), 2.0), "[0, 1]"),
        (torch.zeros(2, 100), "1 channels"),
        (Path("absent.png"), "there is no file absent.png"),
        (Path("x.zip"), ".zip"),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            omni().generate([wrong], "text")
        assert says in str(error.value) and one_line(error)
    with pytest.raises(ValueError, match="a prompt must be a list of segments, got str"):
        omni().generate("red", "text")


# -- sampling ---------------------------------------------------------------------------------------


def test_seeds_reproduce_and_rows_do_not_depend_on_each_other():
    three = omni().generate(["red"], "image", n=3, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(three, omni().generate(["red"], "image", n=3, seed=5), strict=True))
    assert torch.equal(three[0], omni().generate(["red"], "image", seed=5)[0])
    assert not torch.equal(three[0], omni().generate(["red"], "image", seed=6)[0])


def test_without_a_seed_the_statistics_hold_the_one_drawn():
    (a,), first = omni().generate(["red"], "image"), omni().statistics.seed
    (b,), second = omni().generate(["red"], "image"), omni().statistics.seed
    assert first != second and not torch.equal(a, b)
    assert torch.equal(a, omni().generate(["red"], "image", seed=first)[0])


def test_several_prompts_at_once_are_the_same_as_one_by_one(monkeypatch):
    monkeypatch.setattr("tokenloom.models.omni.model.ROWS", 2)
    prompts = [["red"], [picture(), "blue heart"], [], ["red"], [sound()]]
    together = omni().generate_batch(prompts, "image", temperature=0, seed=0)
    assert all(torch.equal(x, greedy(prompt, "image")) for x, prompt in zip(together, prompts, strict=True))
    drawn = omni().generate_batch([["red"]] * 5, "image", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(drawn, omni().generate(["red"], "image", n=5, seed=3), strict=True))
    assert len({x.numpy().tobytes() for x in drawn}) == 5, "chunks do not repeat each other's draws"


def test_guidance_is_against_a_sample_without_a_prompt():
    """The first code of an image is the most likely one under uncond + 3 (cond − uncond)."""
    model = omni()
    head = model.vocabulary.header("pictures", (32, 24))
    start = torch.tensor([DOCUMENT])
    prompts = [torch.cat([model.prompts.encode([["red"]])[0], head]), torch.cat([start, head])]
    state = model.vocabulary.read(prompts[0])
    allowed = model.vocabulary.kinds[state.kind]
    with torch.no_grad():
        logits = [
            model.transformer.logits(model.transformer(p[None], model.vocabulary.states(p)[1][None])[0, -1], allowed)
            for p in prompts
        ]
    wanted = int(allowed[(logits[1] + 3 * (logits[0] - logits[1])).argmax()])
    seen = []
    original, generate.sample = generate.sample, lambda *a, **k: seen.append(original(*a, **k)) or seen[-1]
    try:
        greedy(["red"], "image", guidance=3.0)
    finally:
        generate.sample = original
    assert int(seen[0][0][0]) == wanted
    assert not torch.equal(greedy(["red"], "image", guidance=3.0), greedy(["red"], "image"))
    assert torch.equal(greedy([], "image", guidance=3.0), greedy([], "image"))


def test_defaults_are_the_models_then_the_modalitys_then_the_channels(monkeypatch):
    model = fresh(defaults={"temperature": 0.5, "image": {"temperature": 0.7, "top_k": 9}, "flexible": {"top_k": 3}})
    seen = []
    original = generate.sample
    monkeypatch.setattr(generate, "sample", lambda *a, **k: seen.append(k) or original(*a, **k))
    for to, given in (("text", {}), ("pictures", {"top_p": 0.9}), ("flexible", {"temperature": 0.1, "top_k": None})):
        model.generate(["x"], to, **given)
    found = [[k[name] for name in ("guidance", "temperature", "top_k", "top_p")] for k in seen]
    assert found == [[1.0, 0.5, None, None], [1.0, 0.7, 9, 0.9], [1.0, 0.1, 3, None]]


def test_wrong_sampling_is_one_line():
    for options, says in (
        ({"n": 0}, "n must be an integer from 1 to 10000, got 0"),
        ({"n": True}, "got True"),
        ({"seed": -1}, "got -1"),
        ({"decoder": "magic"}, "unknown decoder 'magic'; known: plain, diffusion"),
        ({"steps": 2}, "steps must be None unless decoder='diffusion', got 2"),
        ({"decoder": "diffusion", "steps": 0}, "steps must be an integer from 1 to 1000, got 0"),
        ({"decoder": "diffusion", "steps": 1.5}, "steps must be an integer from 1 to 1000, got 1.5"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0, got -1.0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, or None, got 0.0"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, or None, got 0"),
        ({"guidance": math.nan}, "guidance must be a number of at least 0, got nan"),
        ({"heat": 1}, "no parameter 'heat'; sampling parameters are guidance, temperature, top_k, top_p, best_of"),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            omni().generate(["red"], "image", **options)
        assert says in str(error.value) and one_line(error)
    with pytest.raises(ValueError, match=r"unknown channel or modality 'video'; .* pictures \(image\)") as error:
        omni().generate(["red"], "video")
    assert one_line(error)


def test_a_prompt_longer_than_the_context_names_both_lengths():
    with pytest.raises(ValueError, match=f"a prompt of 203 tokens .* context of {CONTEXT} tokens"):
        fresh(longest=400).generate(["x" * 200], None)
    with pytest.raises(ValueError, match=f"a prompt of 156 tokens with the 12 .* context of {CONTEXT} tokens"):
        omni().generate(["x" * 150], "image")
    omni().generate(["x" * 142], "image")
    with pytest.raises(ValueError, match=f"a prompt of 1003 tokens .* context of {CONTEXT} tokens"):
        omni().generate(["x" * 1000], "image")


def test_models_travel(tmp_path):
    """Copies and pickles generate what the model does, also after it has generated; they keep their statistics."""
    model, decoder = fresh(), untrained_decoder(tmp_path, "image/fsq")
    expected = model.generate(["red"], None, seed=3)[0]
    for other in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        again = other.generate(["red"], None, seed=3)[0]
        assert len(again) == len(expected)
        assert all(a == b if isinstance(a, str) else torch.equal(a, b) for a, b in zip(again, expected, strict=True))
        assert other.statistics.modelled == model.statistics.modelled
    codes = decoder.codec.encode(picture()[None])
    for other in (pickle.loads(pickle.dumps(decoder)), deepcopy(decoder)):
        assert torch.equal(other.decode(codes), decoder.decode(codes))
    for module in (model, decoder):
        assert all(value.is_contiguous() for value in module.state_dict().values())


def test_a_codec_of_a_model_is_found_wherever_one_stands(tmp_path, monkeypatch):
    """Another codec in a folder of the same name does not take its place."""
    monkeypatch.chdir(tmp_path)
    shipped = codecs.load("captions-bpe")
    codecs.save(tiny("image/fsq"), "captions-bpe")
    found = dependencies.load(tmp_path / "model", "captions-bpe", shipped.fingerprint.hex())
    assert found.name == "text/bpe" and dependencies.resolves("captions-bpe", shipped)


# -- the diffusion decoder --------------------------------------------------------------------------


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Codes]:
    """Record the codes of every result."""
    seen, original = [], segments.decode
    monkeypatch.setattr(segments, "decode", lambda codec, items: seen.extend(items) or original(codec, items))
    return seen


def test_diffusion_decodes_the_codes_that_plain_would(tmp_path, monkeypatch):
    decoder, model, seen = untrained_decoder(tmp_path, "image/fsq"), fresh(), watched(monkeypatch)
    plain = model.generate(["red"], "image", n=3, seed=4)
    painted = model.generate(["red"], "image", n=3, seed=4, decoder="diffusion", steps=2)
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(seen[:3], seen[3:], strict=True))
    wanted = decoder.decode(batches.collate(seen[3:]), steps=2, seed=4)
    assert torch.equal(torch.stack(painted), wanted)
    assert all(not torch.equal(a, b) for a, b in zip(plain, painted, strict=True))
    assert set(model.statistics.seconds) == {"encode", "transformer", "decode"}
    assert all(torch.equal(a, b) for a, b in zip(
        painted, model.generate(["red"], "image", n=3, seed=4, decoder="diffusion", steps=2), strict=True
    ))  # fmt: skip
    (usual,) = model.generate(["red"], "image", seed=4, decoder="diffusion")
    assert torch.equal(usual, decoder.decode(seen[-1], seed=4)[0])
    (batched,) = model.generate_batch([["red"]], "image", seed=4, decoder="diffusion", steps=2)
    assert torch.allclose(batched, painted[0], atol=1e-4)


def test_diffusion_decodes_audio_by_length_and_leaves_texts(tmp_path, monkeypatch):
    decoder, model, seen = untrained_decoder(tmp_path, "audio/rvq"), fresh(), watched(monkeypatch)
    sounds = model.generate(["seven"], "audio", n=4, seed=0, decoder="diffusion", steps=1)
    assert [x.shape[-1] for x in sounds] == [int(codes.sizes[0, 0]) for codes in seen]
    assert torch.equal(sounds[0], decoder.decode(seen[0], steps=1, seed=0)[0])
    plain, same = (model.generate([picture()], "text", seed=1, **how) for how in ({}, {"decoder": "diffusion"}))
    assert plain == same


def test_a_channel_without_a_decoder_is_refused_before_sampling(tmp_path, monkeypatch):
    gc.collect()  # the decoders of other tests
    kept, model = untrained_decoder(tmp_path, "image/fsq"), fresh()
    monkeypatch.setattr(model, "_sample", None)
    for to, name in (("flexible", "flexible"), ("audio", "sounds"), (None, "flexible")):
        with pytest.raises(ValueError, match=f"channel {name}: no diffusion decoder .* ship") as error:
            model.generate(["red"], to, decoder="diffusion")
        assert one_line(error)
    assert kept is models.decoder_for(tiny("image/fsq"))


# -- statistics -------------------------------------------------------------------------------------


def test_statistics_are_of_the_results():
    done = []
    images = omni().generate(["red"], "image", n=3, seed=0, progress=lambda *so_far: done.append(so_far))
    said = omni().statistics
    assert said.tokens == [12] * 3 and said.prompt_tokens == [1 + 5 + 3] * 3
    assert said.nominal == pytest.approx([12 * math.log2(160)] * 3)
    assert done[-1] == (36, 36) and len(images) == 3
    assert list(said.seconds) == ["encode", "transformer", "decode"] and all(s > 0 for s in said.seconds.values())
    omni().generate(["red"], "text", progress=lambda *so_far: done.append(so_far))
    assert done[-1] == (omni().statistics.tokens[0], None)


def test_bits_under_the_model_are_the_sum_over_steps():
    """The reference adds one id at a time, with a softmax over allowed ids, without guidance and temperature."""
    seen = []
    original, generate.sample = generate.sample, lambda *a, **k: seen.append((a[2], original(*a, **k))) or seen[-1][1]
    model = omni()
    try:
        model.generate(["red"], "audio", n=2, seed=0, guidance=2.0, temperature=0.7)
    finally:
        generate.sample = original
    ((prompts, new),) = seen
    for prompt, ids, bits in zip(prompts, new, model.statistics.modelled, strict=True):
        total, row = 0.0, prompt
        for id in ids:
            kinds, places = model.vocabulary.states(row)
            allowed = model.vocabulary.kinds[int(kinds[-1])]
            with torch.no_grad():
                logits = model.transformer.logits(model.transformer(row[None], places[None])[0, -1], allowed)
            total -= float(logits.log_softmax(-1)[allowed == id]) / math.log(2)
            row = torch.cat([row, id[None]])
        assert bits == pytest.approx(total, rel=1e-4)


# -- segments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image/fsq", "image/flex", "audio/rvq", "text/bytes"])
def test_items_decode_in_a_batch_as_they_do_alone(name):
    codec = tiny(name)
    if name == "text/bytes":
        items = [codec.encode([text]) for text in ("a", "", "three words here")]
    else:
        sizes = [(60,), (7,), (121,), (60,)] if name.startswith("audio") else [(20, 30), (50, 9), (20, 30), (1, 1)]
        items = [codec.encode(structured(codec, size, seed)) for seed, size in enumerate(sizes)]
    for item, x in zip(items, segments.decode(codec, items, 2), strict=True):
        alone = codec.decode(item)[0]
        assert x == alone if isinstance(x, str) else (x.shape == alone.shape and (x - alone).abs().max() < 1e-5)


@pytest.mark.parametrize("pattern", ["raster", "delay"])
def test_a_sound_cut_by_the_context_is_a_prefix_of_it(pattern):
    vocabulary = fresh(pattern=pattern, longest=400).vocabulary
    codec = tiny("audio/rvq")
    codes = codec.encode(sound(300)[None], 2)
    (ids,) = vocabulary.segment("sounds", codes)
    header = len(vocabulary.header("sounds", (300,)))
    for kept in range(1, len(ids)):
        with pytest.warns(UserWarning, match="the context ended within a segment of sounds"):
            document = truncation.complete(vocabulary, torch.tensor([DOCUMENT]), ids[:kept])
        found = vocabulary.parse(document)
        tokens = kept - header
        complete = max(0, tokens // 2 if pattern == "raster" else (tokens - 1) // 2)
        assert len(found) == (complete > 0)
        if complete:
            assert torch.equal(found[0][1].indices, codes.indices[:, :, :complete])
            assert found[0][1].sizes.tolist() == [[min(300, 8 * complete)]]


def test_a_picture_cut_by_the_context_keeps_its_complete_rows():
    vocabulary = fresh(size=None).vocabulary
    codes = tiny("image/fsq").encode(picture(30, 21)[None])
    (ids,) = vocabulary.segment("pictures", codes)
    sizes = []
    for kept in range(4, len(ids)):
        with pytest.warns(UserWarning):
            document = truncation.complete(vocabulary, torch.tensor([DOCUMENT]), ids[:kept])
        ((_, found),) = vocabulary.parse(document)
        rows, columns = found.indices.shape[2:]
        assert torch.equal(found.indices, codes.indices[:, :, :rows, :columns])
        sizes.append(tuple(found.sizes[0].tolist()))
    assert list(dict.fromkeys(sizes)) == [(8, 8), (8, 16), (8, 21), (16, 21), (24, 21)]


# -- on disk ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mine"
    models.save(fresh(defaults={"image": {"top_k": 50}}), folder, trained={"steps": 7})
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(folder: Path, change) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def test_saved_and_loaded_it_is_the_same_model(saved):
    model = models.load(saved)
    assert not model.training and model.options == {
        "sizes": {"pictures": (32, 24)},
        "defaults": {"image": {"top_k": 50}},
        "familiarity": None,
    }
    assert model.vocabulary.fingerprints == omni().vocabulary.fingerprints
    for to in ("image", "audio", "text"):
        a, b = (m.generate(["red"], to, seed=3, top_k=50)[0] for m in (model, omni()))
        assert a == b if isinstance(a, str) else torch.equal(a, b)
    assert {p.name for p in saved.iterdir()} == {"config.yaml", "model.safetensors", "pictures", "flexible", "sounds"}
    assert yaml.safe_load((saved / "config.yaml").read_text())["trained"] == {"steps": 7}


@pytest.mark.parametrize("store", ["float16", "int8"])
def test_fewer_bits_lie_on_disk_and_saving_again_changes_nothing(store, tmp_path):
    models.save(omni(), tmp_path / "a", store=store)
    once = models.load(tmp_path / "a")
    models.save(once, tmp_path / "b", store=store)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    full = sum(4 * p.numel() for p in omni().transformer.parameters())
    assert (tmp_path / "a/model.safetensors").stat().st_size < (0.6 if store == "float16" else 0.45) * full
    for a, b in zip(once.transformer.parameters(), omni().transformer.parameters(), strict=True):
        assert (a - b).abs().max() < 0.02 * b.abs().max()


def test_targets_as_settings_survive(tmp_path):
    channels = [Channel("flexible", tiny("image/flex"), Target(psnr=18.0)), Channel("text", codecs.build("text/bytes"))]
    vocabulary = Vocabulary(channels, 64)
    model = Omni(vocabulary, Transformer(vocabulary.size, vocabulary.places, 32, 1, 2, 1, context=64))
    models.save(model, tmp_path)
    assert models.load(tmp_path).vocabulary.channels["flexible"].setting == Target(psnr=18.0)
    assert (tmp_path / "text" / "config.yaml").is_file(), "a channel whose name says nothing has its codec beside it"


def test_another_codec_than_the_trained_one_is_refused_by_both_fingerprints(copy):
    there, here = tiny("image/fsq").fingerprint.hex(), codecs.build("image/fsq", **{**tiny("image/fsq").config})
    codecs.save(here, copy / "pictures")
    with pytest.raises(ValueError, match=there) as error:
        models.load(copy)
    assert here.fingerprint.hex() in str(error.value) and "pictures" in str(error.value) and one_line(error)


def test_weights_of_8_bits_are_chosen_at_loading(saved, tmp_path):
    exact, rounded = models.load(saved), models.load(saved, weights="int8")
    ids = torch.zeros(1, 4, dtype=torch.int64)
    with torch.no_grad():
        assert not torch.equal(exact.transformer(ids, ids), rounded.transformer(ids, ids))
    assert all(map(torch.equal, exact.state_dict().values(), rounded.state_dict().values()))
    with pytest.raises(ValueError, match="weights must be one of float32, int8, got 'int4'"):
        models.load(saved, weights="int4")
    codecs.save(tiny("image/fsq"), tmp_path / "codec")
    models.save(models.build_decoder({"codec": str(tmp_path / "codec")}), tmp_path / "decoder")
    with pytest.raises(ValueError, match="weights=int8 needs an omni model on a CPU, got DiffusionDecoder"):
        models.load(tmp_path / "decoder", weights="int8")


def test_a_codec_that_is_not_total_cannot_enter(tmp_path):
    config = {"transformer": {"width": 32, "heads": 2}, "channels": [{"name": "image/jpeg"}]}
    with pytest.raises(ValueError, match=r"image/jpeg .*cannot enter.*total") as error:
        models.build(config)
    assert one_line(error)


WRONG = {
    "no omni": (lambda c: c.pop("omni"), "describes no omni"),
    "no fingerprints": (lambda c: c.pop("fingerprints"), "describes no omni"),
    "no channels": (lambda c: c["omni"].update(channels=[]), "must be a list of 1 to 64 channels"),
    "a channel without a name": (lambda c: c["omni"]["channels"][0].pop("name"), "must have a name"),
    "a stray key": (lambda c: c["omni"]["channels"][0].update(_target_="os.system"), "has no option '_target_'"),
    "a codec key": (lambda c: c["omni"]["channels"][0].update(codec="hub/id"), "has no option 'codec'"),
    "a path": (lambda c: c["omni"]["channels"][0].update(name="../../x"), "a channel name must have only"),
    "a hub id": (lambda c: c["omni"]["channels"][1].update(name="some/one"), "needs the codec some/one"),
    "a setting": (lambda c: c["omni"]["channels"][3].update(setting=99), "99"),
    "a target": (lambda c: c["omni"]["channels"][2].update(setting={"rm": 1}), "must be a value or a target"),
    "a pattern": (lambda c: c["omni"]["channels"][3].update(pattern="spiral"), "spiral"),
    "a size": (lambda c: c["omni"]["channels"][1].update(size=[10**12, 1]), "size"),
    "sizes of one axis": (lambda c: c["omni"]["channels"][1].update(size=[32]), "2 sizes"),
    "a default": (lambda c: c["omni"].update(sampling={"image": {"heat": 1}}), "defaults.heat"),
    "defaults": (lambda c: c["omni"].update(sampling=3), "defaults"),
    "layers": (
        lambda c: c["omni"]["transformer"].update(layers=10**9),
        "transformer.layers must be an integer from 1 to 256, got 1000000000",
    ),
    "width": (lambda c: c["omni"]["transformer"].update(width=2**16, hidden=2**16), "another architecture"),
    "more layers": (lambda c: c["omni"]["transformer"].update(layers=200), "another architecture"),
    "fewer layers": (lambda c: c["omni"]["transformer"].update(layers=1), "another architecture"),
    "a vocabulary": (lambda c: c["omni"]["transformer"].update(vocabulary=3), "got vocabulary=3"),
    "an argument": (lambda c: c["omni"]["transformer"].update(rope=3), "rope"),
    "longest": (lambda c: c["omni"].update(longest="long"), "longest must be an integer from 1 to 65536, got 'long'"),
    "a longest of 0": (lambda c: c["omni"].update(longest=0), "longest must be an integer from 1 to 65536, got 0"),
    "an empty pattern": (lambda c: c["omni"]["channels"][3].update(pattern=""), "must be one of raster, delay, got ''"),
    "a pattern of false": (lambda c: c["omni"]["channels"][3].update(pattern=False), "got False"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_config_is_one_line_and_takes_no_memory(what, copy):
    change, says = WRONG[what]
    edit(copy, change)
    with pytest.raises(ValueError, match=r".") as error:
        models.load(copy)
    assert says in str(error.value) and one_line(error)


def test_damaged_weights_are_one_line(copy):
    path = copy / "model.safetensors"
    data = path.read_bytes()
    for wrong in (b"", data[:100], data[:-7], struct.pack("<Q", 2**60) + data[8:], b"\x80\x04" + data):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match="damaged") as error:
            models.load(copy)
        assert one_line(error)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        models.load(copy)


def test_sources_without_a_model_are_one_line(tmp_path):
    for source, kind in (("nowhere", ValueError), (tmp_path, FileNotFoundError), (tmp_path / "no", ValueError)):
        with pytest.raises(kind) as error:
            models.load(source)
        assert one_line(error)
    models.save(omni(), tmp_path / "a")
    with pytest.raises(ValueError, match="describes no omni"):
        models.load(tmp_path / "a" / "pictures")


def test_a_transformer_of_other_channels_is_refused():
    vocabulary = Vocabulary([Channel("text/bytes", codecs.build("text/bytes"))])
    with pytest.raises(ValueError, match=f"must have vocabulary={vocabulary.size}, got vocabulary=7"):
        Omni(vocabulary, Transformer(7, vocabulary.places, 32, 1, 2, 1))


def test_training_mode_is_the_transformers_alone():
    model = fresh().train()
    assert model.transformer.training and not any(codec.training for codec in model.codecs)
    a = model.generate(["red"], "image", seed=0)[0]
    assert model.transformer.training and torch.equal(a, omni().generate(["red"], "image", seed=0)[0])


def test_codes_batch_pads_with_zeros():
    items = [Codes(torch.full((1, 1, n), 5), torch.tensor([[n]]), torch.tensor([n])) for n in (2, 0, 3)]
    joined = batches.collate(items)
    assert joined.indices[:, 0].tolist() == [[5, 5, 0], [0, 0, 0], [5, 5, 5]] and joined.lengths.tolist() == [2, 0, 3]
    assert np.prod(joined.sizes.shape) == 3


def test_the_best_of_several_has_the_most_likely_caption(monkeypatch):
    model = omni()
    tries = model.generate(["red heart"], "image", n=4, seed=3)
    fits = [10.0 * float(x.mean()) for x in tries]
    told = iter(fits)
    monkeypatch.setattr(scoring, "fit", lambda *_: next(told))
    (best,) = model.generate(["red heart"], "image", seed=3, best_of=4)
    assert torch.equal(best, tries[max(range(4), key=fits.__getitem__)])
    assert model.statistics.tries == 4 and len(model.statistics.tokens) == 1


def test_a_fit_is_the_likelihood_of_the_caption_or_the_mutual_information():
    model = omni()
    vocabulary = model.vocabulary
    text = vocabulary.segment("text/bytes", vocabulary.channel("text").encode(["ab"]))[0]
    (picture,) = model.generate([], "image", seed=0)
    segment = model.prompts.encode([[picture]])[0][1:]
    start = torch.tensor([DOCUMENT])
    assert (
        scoring.fit(model.transformer, vocabulary, torch.cat([start, text]), segment)
        == -scoring.bits(model.transformer, vocabulary, [(torch.cat([start, segment]), text)])[0]
    )
    after, alone = scoring.bits(
        model.transformer, vocabulary, [(torch.cat([start, segment]), segment), (start, segment)]
    )
    assert scoring.fit(model.transformer, vocabulary, torch.cat([start, segment]), segment) == alone - after
    assert scoring.fit(model.transformer, vocabulary, torch.cat([start, text]), segment[:-1]) == -math.inf


@pytest.mark.parametrize("wrong", [0, 65, 1.5, "two"])
def test_invalid_best_of_is_refused(wrong):
    with pytest.raises(ValueError, match="best_of") as error:
        omni().generate(["a"], "image", best_of=wrong)
    assert one_line(error)
