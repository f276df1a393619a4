"""Codecs in a language model of transformers: tokens, embeddings, prompts, sampling, files and the example."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.codecs import one_line, structured, tiny
from support.hosts import host_tokenizer, llama, transformers
from torch import Tensor

from tokenloom import codecs
from tokenloom.codecs import Codes
from tokenloom.models.bridge import Bridge, Channel, tokens

ROOT = Path(__file__).parents[2]
PICTURE = (64, 64)


def sentencepiece_tokenizer():
    """Llama's own class. Its texts begin with <s>, its words with ▁."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}, "▁": 259}
    vocabulary |= {letter: 260 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    vocabulary |= {"▁a": 286, "▁c": 287}
    tokenizer = transformers.LlamaTokenizer(vocab=vocabulary, merges=[("▁", "a"), ("▁", "c")], add_bos_token=True)
    assert tokenizer("a")["input_ids"] == [1, 286], "the host puts something around its texts"
    return tokenizer


def channels() -> list[Channel]:
    return [
        Channel("picture", codecs.load("pictures-fsq")),
        Channel("sound", codecs.load("digits-rvq"), 2, "delay"),
        Channel("flex", codecs.load("emoji-flex")),
        Channel("caption", codecs.load("captions-bpe")),
    ]


@functools.cache
def merged() -> tuple[Bridge, torch.nn.Module]:
    tokenizer = host_tokenizer()
    model = llama(len(tokenizer))
    bridge = Bridge.merge(tokenizer, model, channels())
    with torch.no_grad():  # a model that likes to begin segments, of all channels
        begins = slice(bridge.first + 1, bridge.first + 5)
        weights = model.get_output_embeddings().weight
        weights[bridge.first :] += 0.3 * torch.randn(weights[bridge.first :].shape)
        weights[begins] *= 6
    return bridge, model


def picture(seed: int = 0) -> Tensor:
    return structured(codecs.load("pictures-fsq"), PICTURE, seed)[0]


def random_ids(bridge: Bridge, count: int = 100_000) -> list[int]:
    return torch.randint(bridge.first, bridge.size, (count,), generator=torch.Generator().manual_seed(1)).tolist()


# -- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [host_tokenizer, sentencepiece_tokenizer])
def test_ids_and_text_are_exact_both_ways(tokenizer, tmp_path):
    bridge = Bridge.merge(tokenizer(), None, channels())
    ids = random_ids(bridge)
    text = bridge.tokenizer.decode(ids)
    assert bridge.tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    bridge.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.decode(ids) == text and loaded(text, add_special_tokens=False)["input_ids"] == ids
    plain = "a cat, a bag: a1 Äb"
    assert loaded(plain)["input_ids"] == bridge.tokenizer(plain)["input_ids"] == tokenizer()(plain)["input_ids"]
    assert loaded.decode(ids[:50], skip_special_tokens=True) == ""


def test_names_say_what_ids_are():
    bridge, _ = merged()
    names = bridge.tokenizer.convert_ids_to_tokens(
        [bridge.first, bridge.first + 1, bridge.first + 5, bridge.first + 261]
    )
    assert names == ["<|segment:end|>", "<|segment:picture|>", "<|size:0|>", "<|picture:0:0|>"]
    assert bridge.size == len(bridge.tokenizer) == bridge.first + bridge.vocabulary.size - 3
    assert sorted(bridge.tokenizer.get_vocab().values()) == list(range(bridge.size)), "contiguous, none twice"


@pytest.mark.parametrize(("name", "size"), [("picture", (480, 472)), ("sound", (288_000,))])
def test_ids_and_codes_are_exact_both_ways(name, size):
    bridge, _ = merged()
    part = next(p for p in bridge.vocabulary.layouts if p.channel.name == name)
    count = -(-100_000 // part.count(size)[0])
    numbers = torch.Generator().manual_seed(0)
    indices = torch.randint(part.entries[0], (count, part.quantizers, *part.spec.grid(size)), generator=numbers)
    codes = Codes(indices, torch.tensor([size] * count))
    assert indices.numel() >= 100_000
    rows = bridge.segment(name, codes)
    for item, ids in enumerate(rows):
        ((found, back),) = bridge.parse(ids)
        assert found == name and torch.equal(back.indices, indices[item : item + 1])
        assert back.sizes.tolist() == [list(size)]
    both = bridge.parse(torch.cat(rows[:3]))
    assert torch.equal(torch.cat([back.indices for _, back in both]), indices[:3]), "segments may follow each other"


@pytest.mark.parametrize("tokenizer", [host_tokenizer, sentencepiece_tokenizer])
def test_seventeen_thousand_tokens_load_fast(tokenizer, tmp_path):
    """The minimum of three CPU times, because other work may slow a single run. About 0.4 s are usual, 2 s allowed."""
    big = codecs.build("image/vqgan", codebook_size=16384, dim=4, patch=4, stride=8, widths=[8, 8], depths=[0, 0],
                       decoder_depths=[0, 0])  # fmt: skip
    bridge = Bridge.merge(tokenizer(), None, [Channel("vq", big), Channel("fsq", codecs.load("pictures-fsq"))])
    assert bridge.size - bridge.first > 17_000
    bridge.save_pretrained(tmp_path)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
        seconds.append(time.process_time() - start)
        assert len(loaded) == bridge.size
    assert min(seconds) < 2


def test_what_cannot_be_merged_is_one_line():
    tokenizer, fsq = host_tokenizer(), codecs.load("pictures-fsq")
    before = len(tokenizer)
    for wanted, given in (
        ("spec.total", [Channel("jpeg", codecs.build("image/jpeg"))]),
        ("a channel name must have only", [Channel("a b", fsq)]),
        ("must be unique, got 'a' twice", [Channel("a", fsq), Channel("a", fsq)]),
    ):
        with pytest.raises(ValueError, match=wanted) as error:
            Bridge.merge(tokenizer, None, given)
        assert one_line(error) and len(tokenizer) == before
    tokenizer.add_tokens(["<|mine:0:7|>"])
    with pytest.raises(ValueError, match=r"<\|mine:0:7\|> already") as error:
        Bridge.merge(tokenizer, None, [Channel("mine", fsq)])
    assert one_line(error) and len(tokenizer) == before + 1
    Bridge.merge(tokenizer, None, [Channel("picture", fsq)])
    with pytest.raises(ValueError, match="is merged already") as error:
        Bridge.merge(tokenizer, None, [Channel("another", fsq)])
    assert one_line(error)
    with pytest.raises(ValueError, match="must be a model of transformers") as error:
        Bridge.merge(host_tokenizer(), torch.nn.Linear(2, 2), [Channel("picture", fsq)])
    assert one_line(error)


def test_tokenizers_that_cannot_take_codes_are_one_line():
    from tokenizers import Tokenizer, models, pre_tokenizers

    fsq = [Channel("picture", codecs.load("pictures-fsq"))]
    slow = transformers.ByT5Tokenizer()
    with pytest.raises(ValueError, match="must be a fast one") as error:
        Bridge.merge(slow, None, fsq)
    assert one_line(error)
    undecoded = Tokenizer(models.BPE(vocab={"a": 0, "Ġ": 1}, merges=[]))
    undecoded.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match="needs a decoder") as error:
        Bridge.merge(transformers.PreTrainedTokenizerFast(tokenizer_object=undecoded), None, fsq)
    assert one_line(error)
    gaps = Tokenizer(models.WordLevel(vocab={"a": 0, "b": 9}, unk_token="a"))
    with pytest.raises(ValueError, match="must not have gaps") as error:
        Bridge.merge(transformers.PreTrainedTokenizerFast(tokenizer_object=gaps), None, fsq)
    assert one_line(error)


# -- embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 100, 2000])
def test_new_rows_begin_at_the_mean_and_old_ones_stay(tied, spare):
    tokenizer = host_tokenizer()
    count = len(tokenizer)
    model = llama(count + spare, tie_word_embeddings=tied)
    inputs, outputs = (m.weight.detach().clone() for m in (model.get_input_embeddings(), model.get_output_embeddings()))
    bridge = Bridge.merge(tokenizer, model, [Channel("picture", codecs.load("pictures-fsq"))], pad_to_multiple_of=64)
    for old, module in ((inputs, model.get_input_embeddings()), (outputs, model.get_output_embeddings())):
        new = module.weight.detach()
        assert len(new) % 64 == 0 and len(new) >= max(bridge.size, count + spare)
        assert torch.equal(new[:count], old[:count])
        assert torch.allclose(new[bridge.first : bridge.size], old[:count].mean(0).expand(bridge.size - count, -1))
    assert model.config.vocab_size == len(model.get_input_embeddings().weight)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    ids = bridge([["the fox", picture()]])["input_ids"]
    assert model(ids).logits.shape[:2] == ids.shape


# -- prompts --------------------------------------------------------------------------------------


def test_prompts_of_all_modalities_come_back(tmp_path):
    bridge, _ = merged()
    image, sound = picture(), structured(codecs.load("digits-rvq"), (3000,))[0]
    path = tmp_path / "picture.png"
    codecs.write(image, path)
    pixels = Image.open(path)
    inputs = bridge(
        [["the fox", " jumps ", image, "over", sound, ("flex", image), ("caption", "a dog")], ["dog", path, pixels]]
    )
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert inputs["attention_mask"][1].tolist() == sorted(inputs["attention_mask"][1].tolist()), "padded on the left"
    first, second = bridge.decode(inputs["input_ids"])
    assert first[0] == "the fox jumps " and first[2] == "over" and first[5] == "a dog" and second[0] == "dog"
    for x, name, given in ((first[1], "picture", image), (first[3], "sound", sound), (first[4], "flex", image)):
        channel = bridge.vocabulary.channels[name]
        assert torch.allclose(x, channel.codec.decode(channel.encode(given[None]))[0], atol=1e-5)
    assert torch.equal(second[1], second[2]) and second[1].shape == (3, *PICTURE)
    alone = bridge(["dog", path, pixels])["input_ids"][0]
    assert torch.equal(alone, inputs["input_ids"][1][inputs["attention_mask"][1].bool()])
    assert [name for name, _ in bridge.parse(alone)] == [None, "picture", "picture"]
    right = bridge([["the fox"], ["a"]], padding_side="right")["attention_mask"]
    assert right[1].tolist() == sorted(right[1].tolist(), reverse=True)


def test_typed_tokens_stay_text_unless_asked():
    bridge, _ = merged()
    text = "draw <|segment:picture|><|size:8|> for me </s>"
    ids = bridge([text])["input_ids"][0]
    assert int(ids.max()) < bridge.first and 1 in ids, "codes are spelled out, the host's own tokens are not"
    assert bridge.decode(ids) == ["draw <|segment:picture|><|size:8|> for me "]
    assert bridge.decode(ids, skip_special_tokens=False) == [text]
    assert max(bridge.tokenizer(text)["input_ids"]) > bridge.first, "transformers' own call reads them as tokens"
    assert max(bridge.tokenizer(text, split_special_tokens=True)["input_ids"]) < bridge.first


def test_what_the_host_puts_around_a_text_comes_around_a_prompt():
    bridge = Bridge.merge(sentencepiece_tokenizer(), None, [Channel("picture", codecs.load("pictures-fsq"))])
    ids = bridge(["a cat", picture(), "a bag"])["input_ids"][0].tolist()
    assert ids[:2] == [1, 286] and ids.count(1) == 1
    assert bridge.decode(ids)[::2] == ["a cat", "a bag"]
    assert bridge(["a"], add_special_tokens=False)["input_ids"].tolist() == [[286]]
    assert bridge([picture()])["input_ids"][0, :2].tolist() == [1, bridge.first + 1]


def test_prompts_that_cannot_be_read_are_one_line(tmp_path):
    bridge, _ = merged()
    for wanted, prompts in (
        ("a list of segments", "a text alone"),
        ("a list of segments", []),
        ("got str as prompt 1", [["a"], "b"]),
        ("a segment must be a str", [3]),
        ("unknown channel", [("film", picture())]),
        ("takes audio, got image", [("sound", picture())]),
        ("the prompts are empty", [""]),
    ):
        with pytest.raises(ValueError, match=wanted) as error:
            bridge(prompts)
        assert one_line(error)
    for wanted, ids in (
        ("an id must be 0 to", [0, bridge.size]),
        ("an id must be 0 to", [-100, 0]),
        ("along one axis", [0.5, 1.0]),
        ("break the grammar", [5, bridge.first + 300, 6]),
        ("text follows within a segment", [5, *bridge.segment("picture", one_picture())[0][:9].tolist(), 6, 7]),
    ):
        with pytest.raises(ValueError, match=wanted) as error:
            bridge.decode(ids)
        assert one_line(error)


def one_picture() -> Codes:
    return codecs.load("pictures-fsq").encode(picture()[None])


def test_a_segment_cut_off_at_the_end_is_cut_to_what_decodes():
    bridge, _ = merged()
    ids = torch.cat([torch.tensor([5, 6]), bridge.segment("picture", one_picture())[0]])
    with pytest.warns(UserWarning, match="which is shortened"):
        text, half = bridge.decode(torch.cat([ids[:-30], torch.tensor([1, 2, 2])]))[:2]
    assert isinstance(text, str) and half.shape == (3, 32, 64)


# -- sampling -------------------------------------------------------------------------------------

PROMPTS = [["the quick"], ["dog ", ("flex", torch.zeros(3, 24, 24)), "fox"], ["a"]]
HOW = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "hot": {"do_sample": True, "temperature": 3.0, "top_k": 0},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampled beams": {"do_sample": True, "num_beams": 3},
    "no repetition": {"do_sample": True, "no_repeat_ngram_size": 1},
}


def generated(bridge: Bridge, model, new: int, how: dict, seed: int = 0, **structure) -> tuple[list, Tensor]:
    """Return the segments and ids after each prompt. Warnings are errors here, so no segment is shortened."""
    torch.manual_seed(seed)
    inputs = bridge(PROMPTS)
    processor = bridge.logits_processor(**structure)
    assert isinstance(processor, transformers.LogitsProcessor)
    ids = model.generate(**inputs, logits_processor=[processor], max_new_tokens=new, **how)
    ids = ids[:, inputs["input_ids"].shape[1] :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return bridge.decode(ids), ids


@pytest.mark.parametrize("how", HOW)
def test_whatever_is_sampled_decodes(how):
    bridge, model = merged()
    seen = set()
    for seed in range(3):
        rows, ids = generated(bridge, model, 120, HOW[how], seed, max_new_tokens=120)
        assert len(rows) == len(PROMPTS)
        seen |= {name for row in ids for name, _ in bridge.parse(row)}
    if how == "hot":
        assert seen == {None, *bridge.vocabulary.channels}, "the test sees all channels, and text"


@pytest.mark.parametrize("how", ["greedy", "sampling", "beams", "no repetition"])
@pytest.mark.parametrize(("only", "size", "new"), [
    ("picture", (16, 24), 12), ("picture", (16, 24), 40), ("image", None, 30), ("audio", (999,), 40),
    ("sound", None, 9), ("flex", None, 8), ("caption", None, 6),
])  # fmt: skip
def test_a_segment_can_be_asked_for(only, size, new, how):
    bridge, model = merged()
    rows, ids = generated(bridge, model, new, HOW[how], only=only, size=size, max_new_tokens=new)
    for row, own in zip(rows, ids, strict=True):
        (segment,) = row
        ((name, codes),) = [part for part in bridge.parse(own) if part[0] is not None]
        assert only in (name, bridge.vocabulary.channels[name].modality)
        if size is not None:
            assert segment.shape[1:] == size and codes.sizes.tolist() == [list(size)]
        assert set(own[len(bridge.segment(name, codes)[0]) :].tolist()) <= {1, 2}, "then the end"


def test_sizes_may_be_fixed_for_whatever_the_model_begins():
    bridge, model = merged()
    sizes, seen = {"picture": (9, 17), "flex": (30, 20), "sound": (333,)}, set()
    for seed in range(6):
        _, ids = generated(bridge, model, 60, HOW["hot"], seed, size=sizes, max_new_tokens=60)
        for name, codes in (part for row in ids for part in bridge.parse(row)):
            if name in sizes:
                seen.add(name)
                assert tuple(codes.sizes[0].tolist()) == sizes[name]
    assert seen == set(sizes)


def test_a_begun_segment_is_completed():
    bridge, model = merged()
    whole = bridge.segment("picture", one_picture())[0]
    prompt = torch.cat([torch.tensor([5, 6]), whole[:40]])[None]
    ids = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=100, do_sample=True,
        logits_processor=[bridge.logits_processor(only="picture")],
    )  # fmt: skip
    _, image = bridge.decode(ids[0])
    assert image.shape == (3, *PICTURE) and torch.equal(ids[0, :42], prompt[0])
    assert ids.shape[1] == 2 + len(whole) + 1, "the picture's rest, and the end"


def test_the_mask_is_the_grammar_of_each_row():
    """The reference is the state of the vocabulary's own grammar after every id."""
    bridge, _ = merged()
    shift = bridge.first - 3
    row = bridge([["the fox", picture(), "dog"]], add_special_tokens=False)["input_ids"][0]
    other = bridge([["a", ("sound", torch.zeros(1, 500)), "the lazy dog, the lazy dog"]])["input_ids"][0]
    processor = bridge.logits_processor()
    start = 4
    state = bridge.vocabulary.start()
    for length in range(start, min(len(row), len(other), 80)):
        both = torch.stack([row[:length], other[:length]])
        allowed = processor(both, torch.zeros(2, bridge.size + 7))[0] == 0
        for id in row[start if length > start else 0 : length][-1 if length > start else None :].tolist():
            state = state.advance(id - shift) if id >= bridge.first else state
        wanted = torch.zeros(bridge.size + 7, dtype=torch.bool)
        wanted[bridge.first : bridge.size] = bridge.vocabulary.mask(state)[3:]
        wanted[: bridge.first] = state.between_segments
        assert torch.equal(allowed, wanted), length


def test_what_cannot_be_asked_for_is_one_line():
    bridge, model = merged()
    for wanted, how in (
        ("unknown channel or modality", {"only": "film"}),
        ("without only, size must be a mapping", {"size": (8, 8)}),
        ("has 2 sizes", {"only": "picture", "size": (8,)}),
        ("must be at least 1, got 0", {"only": "picture", "size": (0, 8)}),
        ("max_new_tokens must .* got 0", {"max_new_tokens": 0}),
        ("eos_token_id", {"only": "picture", "eos_token_id": bridge.size}),
    ):
        with pytest.raises(ValueError, match=wanted) as error:
            bridge.logits_processor(**how)
        assert one_line(error)
    with pytest.raises(ValueError, match=r"takes at least 67 ids; the limit leaves 60") as error:
        generated(bridge, model, 60, {}, only="picture", size=PICTURE, max_new_tokens=60)
    assert one_line(error)
    with pytest.raises(ValueError, match=r"breaks the grammar at 1: code 3 of picture, quantizer 0") as error:
        bridge.logits_processor()(torch.tensor([[5, bridge.first + 264]]), torch.zeros(1, bridge.size))
    assert one_line(error)
    with pytest.raises(ValueError, match=r"give the model to Bridge\.merge") as error:
        bridge.logits_processor()(torch.tensor([[5]]), torch.zeros(1, bridge.first))
    assert one_line(error)


# -- files ----------------------------------------------------------------------------------------


def test_a_bridge_is_saved_and_loaded(tmp_path):
    own = tiny("image/fsq")
    bridge = Bridge.merge(host_tokenizer(), None, [Channel("mine", own), *channels()], longest=2048)
    bridge.save_pretrained(tmp_path)
    description = json.loads((tmp_path / "tokenloom_bridge.json").read_text())
    assert description["first"] == bridge.first and (tmp_path / "mine" / "model.safetensors").is_file()
    assert [c["codec"] for c in description["channels"]] == [
        None,
        "pictures-fsq",
        "digits-rvq",
        "emoji-flex",
        "captions-bpe",
    ]
    loaded = Bridge.from_pretrained(tmp_path)
    assert loaded.vocabulary.fingerprints == bridge.vocabulary.fingerprints and loaded.vocabulary.longest == 2048
    prompt = [["the fox", picture(), ("sound", torch.zeros(1, 700))]]
    assert torch.equal(loaded(prompt)["input_ids"], bridge(prompt)["input_ids"])
    assert tokens.token_names(loaded.vocabulary) == tokens.token_names(bridge.vocabulary)
    assert Bridge.from_pretrained(tmp_path, codecs={"mine": own}).vocabulary.channels["mine"].codec is own


def test_another_codec_than_the_one_merged_is_refused(tmp_path):
    bridge = Bridge.merge(host_tokenizer(), None, [Channel("mine", tiny("image/fsq"))])
    bridge.save_pretrained(tmp_path)
    torch.manual_seed(5)
    other = codecs.build("image/fsq", **tiny("image/fsq").config)
    with pytest.raises(ValueError, match=f"fingerprint {tiny('image/fsq').fingerprint.hex()}, the one here") as error:
        Bridge.from_pretrained(tmp_path, codecs={"mine": other})
    assert one_line(error)
    with pytest.raises(ValueError, match="unknown channel 'yours'; the channels are mine") as error:
        Bridge.from_pretrained(tmp_path, codecs={"yours": other})
    assert one_line(error)
    host_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must have <\|segment:end\|>") as error:
        Bridge.from_pretrained(tmp_path)
    assert one_line(error)


@pytest.mark.parametrize("change", [
    {"version": 2}, {"first": -1}, {"first": "3"}, {"longest": 0}, {"channels": []}, {"channels": [3]},
    {"name": "../up"}, {"codec": 3}, {"codec": "someone/else"}, {"pattern": "spiral"}, {"setting": {"colour": 3}},
])  # fmt: skip
def test_damaged_descriptions_are_one_line(tmp_path, change):
    Bridge.merge(host_tokenizer(), None, [Channel("p", codecs.load("pictures-fsq"))]).save_pretrained(tmp_path)
    path = tmp_path / "tokenloom_bridge.json"
    description = json.loads(path.read_text())
    ((key, value),) = change.items()
    (description if key in description else description["channels"][0])[key] = value
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"tokenloom_bridge\.json") as error:
        Bridge.from_pretrained(tmp_path)
    assert one_line(error)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no bridge") as error:
        Bridge.from_pretrained(tmp_path)
    assert one_line(error)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (lambda: Bridge.merge(None, None, []), lambda: Bridge.from_pretrained("anywhere")):
        with pytest.raises(ValueError, match=r"pip install 'tokenloom\[hf\]'") as error:
            call()
        assert one_line(error)


# -- the example ----------------------------------------------------------------------------------


def test_the_example_runs(tmp_path):
    command = [
        sys.executable, str(ROOT / "examples" / "llama_draws_emoji.py"), "--steps", "2", "--batch", "2", "--draw", "2",
        "--copies", "1", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4 of 4 pictures decode" in done.stdout
    assert Image.open(tmp_path / "out" / "drawn.png").width > 500
    bridge = Bridge.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight.shape[0] == bridge.size


def test_slips_are_one_line():
    bridge = Bridge.merge(host_tokenizer(), None, channels())
    slips = (
        lambda: bridge.logits_processor(only="sound", size=300),
        lambda: bridge.logits_processor(only="picture", size="64"),
        lambda: Bridge.merge(host_tokenizer(), None, ["pictures-fsq"]),
        lambda: Bridge.merge(host_tokenizer(), None, channels()[0]),
    )
    for slip in slips:
        with pytest.raises(ValueError) as error:
            slip()
        assert one_line(error)
