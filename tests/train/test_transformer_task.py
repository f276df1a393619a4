"""The transformer task: tables of tokens, packed documents, losses, metrics, and whole tiny trainings."""

from __future__ import annotations

import functools
import math
import os
import warnings
from pathlib import Path

import pytest
import torch
from support.codecs import one_line, tiny
from support.packs import write_packs
from support.processes import distance, finish, start
from support.training import log, losses_of, same

from tokenloom import codecs, data, models
from tokenloom.codecs import Modality, Target, media
from tokenloom.data import tokens, variants
from tokenloom.data.documents.documents import Documents
from tokenloom.data.tokens import table as table_module
from tokenloom.data.tokens.table import TokenTable, cached_table
from tokenloom.models.vocabulary import DOCUMENT, STOP, Channel
from tokenloom.train import state
from tokenloom.train.config import OptimizerConfig, TrainConfig
from tokenloom.train.loop import Run, train
from tokenloom.train.tasks import transformer
from tokenloom.train.tasks.packing import FIELDS, MODALITIES, ChannelEncoder
from tokenloom.train.tasks.transformer import TransformerJob, TransformerObjective

CONTEXT = 160
KINDS = [
    {"kind": "caption", "source": "emoji", "share": 3.0, "reverse": 0.3},
    {"kind": "edit", "source": "emoji", "copies": 2},
    {"kind": "caption", "source": "words", "copies": 1},
    {"kind": "caption", "source": "scenes", "copies": 1},
    {"kind": "caption", "source": "digits", "reverse": 0.5, "copies": 1},
    {"kind": "sum", "source": "digits", "copies": 1, "share": 0.5},
]
WEIGHTS = {"text": 2.0, "image": 1.0, "audio": 0.5, "given": 0.1}


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """Return a folder with packs, two codecs and cached tokens."""
    return prepared(tmp_path_factory.mktemp("task"))


def prepared(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_packs(folder)
    codecs.save(tiny("image/fsq"), folder / "pictures")
    codecs.save(tiny("audio/rvq"), folder / "sounds")
    return folder


def omni(there: Path, **changes) -> dict:
    numbers = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "context": CONTEXT, "dropout": 0.1}
    channels = [
        {"name": "text/bytes"},
        {"name": "pictures", "codec": str(there / "pictures"), "size": [32, 32]},
        {"name": "sounds", "codec": str(there / "sounds"), "setting": 1},
    ]
    return {"transformer": numbers | changes, "channels": channels}


def sources(there: Path) -> dict:
    return {
        "emoji": {"name": "tar", "path": "emoji.tar"},
        "digits": {"name": "tar", "path": "digits.tar"},
        "words": {"name": "words", "count": 6, "size": 32},
        "scenes": {"name": "scenes", "count": 4, "size": 32, "words": 0.0},
    }


def config(there: Path, out: Path | str, **changes) -> TrainConfig:
    """Return the config of a few steps on every modality, with dropout of documents and in the network."""
    defaults = {
        "task": "transformer", "omni": omni(there), "tokens": str(there / "tokens"), "losses": dict(WEIGHTS),
        "data": {
            "name": "documents", "folder": str(there), "sources": sources(there), "kinds": KINDS,
            "copies": {"image": 4, "audio": 2},
        },
        "optimizer": OptimizerConfig(lr=5e-3, warmup=3), "steps": 16, "batch_size": 4, "log_every": 1, "ema": 0.9,
        "save_every": 1000, "validate_every": 1000, "device": "cpu", "out": str(out),
    }  # fmt: skip
    return TrainConfig(**(defaults | changes))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Shorten validations."""
    monkeypatch.setattr(transformer, "VALIDATED", 12)


@pytest.fixture
def job(there, tmp_path) -> TransformerJob:
    return lively(TransformerJob(config(there, tmp_path / "run")))


def lively(job: TransformerJob) -> TransformerJob:
    """Set random weights, because every block of a fresh network is the identity."""
    torch.manual_seed(0)
    for weight in job.model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    job.model.eval()
    return job


# -- tables of tokens ---------------------------------------------------------------------------


def opened(there: Path, name: str) -> tuple[data.Source, dict]:
    node = dict(sources(there)[name])
    if "path" in node:
        node["path"] = str(there / node["path"])
    return data.open_source(**node), node


def table(source: data.Source, node: dict, channel: Channel, copies: int, cache: Path) -> TokenTable:
    """Return the codes of a source in a channel, as a training reads them."""
    encoder = ChannelEncoder(channel)
    return cached_table(source, node, channel.codec, encoder, channel.setting, copies, cache)


def alike(a: TokenTable, b: TokenTable) -> bool:
    return a.copies == b.copies and same(dict(sorted(a.tensors.items())), dict(sorted(b.tensors.items())))


CHANNELS = {
    "pictures": lambda: Channel("pictures", tiny("image/fsq")),
    "flexible": lambda: Channel("flexible", tiny("image/flex"), Target(bits_per_pixel=0.3)),
    "sounds": lambda: Channel("sounds", tiny("audio/rvq"), 2, "delay"),
}


@pytest.mark.parametrize(("name", "channel"), [("words", "pictures"), ("emoji", "flexible"), ("digits", "sounds")])
def test_a_table_is_what_the_codec_says_of_each_copy(there, tmp_path, name, channel):
    source, node = opened(there, name)
    channel = CHANNELS[channel]()
    found = table(source, node, channel, 3, tmp_path)
    for item in range(0, len(source), 3):
        x = source[item].signal
        for copy in range(3):
            if channel.modality is Modality.IMAGE:
                wanted = channel.encode(variants.image(x, copy)[None])
            else:
                x = media.convert(x, source[item].sample_rate, channel.codec.spec.sample_rate, 1)
                wanted = channel.encode(variants.audio(x, channel.codec.spec.sample_rate, copy)[None])
            got = found[item, copy]
            assert torch.equal(got.indices, wanted.indices) and torch.equal(got.sizes, wanted.sizes)
            assert (got.lengths is None) == (wanted.lengths is None)
            assert got.lengths is None or torch.equal(got.lengths, wanted.lengths)
            x = source[item].signal
    with pytest.raises(IndexError, match="copies 0 to 2, not 3"):
        found[0, 3]


def test_a_table_is_computed_once(there, tmp_path, monkeypatch):
    source, node = opened(there, "words")
    first = table(source, node, CHANNELS["pictures"](), 2, tmp_path)
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr(Channel, "encode", lambda *_: pytest.fail("computed again"))
    again = table(source, node, CHANNELS["pictures"](), 2, tmp_path)
    assert alike(again, first) and list(tmp_path.iterdir()) == [folder]


def test_the_cache_is_a_folder_that_tokenize_would_write(there, tmp_path):
    """With one copy, the shards are equal byte for byte."""
    source, node = opened(there, "words")
    table(source, node, Channel("pictures", codecs.load(there / "pictures")), 1, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    tokens.tokenize(node, str(there / "pictures"), tmp_path / "out", workers=0, batch_size=32)
    assert [p.name for p in sorted(folder.iterdir())] == ["_index.json", "tokens-000000.tar"]
    for name in ("tokens-000000.tar",):
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert tokens.is_complete(folder)


def test_tokenized_data_trains_as_its_signals_do(there, tmp_path):
    """A run on a folder from `tokenize` equals the run on its signals bit for bit."""
    _, node = opened(there, "words")
    tokens.tokenize(node, str(there / "pictures"), tmp_path / "tokens", workers=0, batch_size=32)
    kinds = [{"kind": "caption", "source": "words", "copies": 1}]
    straight, ready = (documents_of(there, tmp_path / name, kinds) for name in ("signals", "shards"))
    for cfg in (straight, ready):
        cfg.data |= {"sources": {"words": node}, "folder": None, "copies": {}}
        cfg.steps = 3
    ready.data["sources"] = {"words": {"name": "tokens", "path": str(tmp_path / "tokens")}}
    ready.tokens = str(tmp_path / "unused")
    a, b = train(straight), train(ready)
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert not (tmp_path / "unused").exists()


def test_tokens_of_another_codec_setting_or_copies_are_refused(there, tmp_path):
    _, node = opened(there, "digits")
    tokens.tokenize(node, str(there / "sounds"), tmp_path / "tokens", setting=2, workers=0)
    for kind, says in (
        ({}, "at setting 2, not 1"), ({"channel": "pictures"}, "holds audio, the channel pictures is for image"),
        ({"copies": 2}, "tokens of one copy of each item, not of 2"),
    ):  # fmt: skip
        cfg = documents_of(there, tmp_path, [{"kind": "caption", "source": "sounds", **kind}])
        cfg.data |= {"sources": {"sounds": {"name": "tokens", "path": str(tmp_path / "tokens")}}, "folder": None}
        with pytest.raises(ValueError, match=says) as error:
            train(cfg)
        assert one_line(error)
    cfg.data["kinds"] = [{"kind": "caption", "source": "sounds"}]
    cfg.omni["channels"][2] |= {"codec": "digits-rvq", "setting": 2}
    with pytest.raises(ValueError, match=r"holds tokens of .*not of this audio/rvq") as error:
        train(cfg)
    assert one_line(error)


def test_a_table_is_of_this_data_codec_setting_and_copies(there, tmp_path):
    def count(*what) -> int:
        table(*what, tmp_path)
        return len(list(tmp_path.glob("*/_index.json")))

    folder = there / "few"
    folder.mkdir(exist_ok=True)
    for i in range(2):
        codecs.write(torch.full((3, 16, 16), i / 2), folder / f"{i}.png")
    node = {"name": "folder", "path": str(folder)}
    open_, pictures = functools.partial(data.open_source, **node), CHANNELS["pictures"]()
    assert count(open_(), node, pictures, 1) == 1
    assert count(open_(), node, pictures, 2) == 2
    other = codecs.load(there / "pictures")
    assert count(open_(), node, Channel("pictures", other), 1) == 2
    with torch.no_grad():
        next(other.encoder.parameters()).add_(0.01)
    assert count(open_(), node, Channel("pictures", other), 1) == 3
    flexible = tiny("image/flex")
    assert count(open_(), node, Channel("pictures", flexible, 3), 1) == 4
    assert count(open_(), node, Channel("pictures", flexible, 4), 1) == 5
    words = {"name": "words", "count": 2, "size": 16}
    assert count(data.open_source(**words), words, pictures, 1) == 6
    assert count(data.open_source(**words, seed=1), {**words, "seed": 1}, pictures, 1) == 7
    os.utime(folder / "1.png", (0, 0))
    assert count(open_(), node, pictures, 1) == 8
    assert count(open_(), node, pictures, 1) == 8


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "index"])
def test_a_damaged_table_is_computed_again(there, tmp_path, harm):
    source, node = opened(there, "words")
    whole = table(source, node, CHANNELS["pictures"](), 1, tmp_path)
    (file,) = tmp_path.glob("*/_index.json" if harm == "index" else "*/tokens-*.tar")
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[700] ^= 1  # within the indices of the first item
    file.write_bytes({"empty": b"", "flipped": bytes(flipped)}.get(harm, content[: len(content) // 2]))
    with pytest.warns(UserWarning, match="damaged and computed again"):
        again = table(source, node, CHANNELS["pictures"](), 1, tmp_path)
    assert alike(again, whole) and file.read_bytes() == content


def test_a_table_that_was_being_written_is_not_read(there, tmp_path, monkeypatch):
    source, node = opened(there, "words")
    real = Channel.encode
    calls = []

    def dies(channel, x):
        calls.append(len(x))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(channel, x)

    monkeypatch.setattr(table_module, "BATCH", 4)
    monkeypatch.setattr(Channel, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        table(source, node, CHANNELS["pictures"](), 1, tmp_path)
    assert not list(tmp_path.glob("*/tokens-*"))
    assert len(table(source, node, CHANNELS["pictures"](), 1, tmp_path).tensors["sizes"]) == 6


def test_one_table_for_a_channel_that_is_asked_for_in_two_ways(there, tmp_path):
    """One kind names the channel and uses one copy; another uses it as the default, with four."""
    kinds = [
        {"kind": "caption", "source": "emoji", "original": 0},
        {"kind": "caption", "source": "emoji", "channel": "pictures", "copies": 1},
    ]
    packer = TransformerJob(documents_of(there, tmp_path, kinds, dropout=0.0)).packer
    (found,) = packer.tables.values()
    assert found.copies == 4
    source = opened(there, "emoji")[0]
    for g in range(40):
        (part,) = (part for part in packer.documents.draw(0, g) if part.source)
        wanted = tiny("image/fsq").encode(variants.image(source[part.item].signal, part.copy)[None])
        assert torch.equal(packer.codes(part).indices, wanted.indices)


def documents_of(there: Path, out: Path, kinds: list[dict], **changes) -> TrainConfig:
    cfg = config(there, out / "run")
    cfg.data |= {"kinds": kinds, **changes}
    return cfg


# -- packing ------------------------------------------------------------------------------------


def test_a_sequence_holds_whole_documents_and_padding(job):
    packer, filled = job.packer, 0
    for slot in range(12):
        rows = dict(zip(FIELDS, packer.sequence(0, slot), strict=True))
        numbers, ids = rows["documents"], rows["ids"]
        count = int(numbers.max())
        ends = numbers.bincount(minlength=count + 1)
        order = torch.tensor([*range(1, count + 1), 0])
        assert torch.equal(numbers, order.repeat_interleave(ends[order])), "1, 2, … and padding behind"
        drawn = iter(packer.documents.draw(0, (slot << 16) + g) for g in range(200))
        for number in range(1, count + 1):
            own = ids[numbers == number]
            assert own[0] == DOCUMENT and own[-1] == STOP
            wanted = next(parts for parts in drawn if torch.equal(packer.document(parts)[0], own))
            for (name, codes), part in zip(job.vocabulary.parse(own), wanted, strict=True):
                assert name == packer.channel(part) and torch.equal(codes.indices, packer.codes(part).indices)
        for name in FIELDS:
            assert not rows[name][numbers == 0].any(), "padding is nothing"
        filled += int((numbers > 0).sum())
    assert filled > 0.7 * 12 * CONTEXT


def test_what_may_come_next_allows_what_does(job):
    for slot in range(12):
        rows = dict(zip(FIELDS, job.packer.sequence(0, slot), strict=True))
        for at in range(CONTEXT - 1):
            if rows["documents"][at] and rows["documents"][at] == rows["documents"][at + 1]:
                assert job.vocabulary.allows(int(rows["kinds"][at]), int(rows["ids"][at + 1]))
                assert rows["weights"][at] > 0
            else:
                assert rows["weights"][at] == 0, "no document predicts the next one, and nothing predicts padding"
        assert rows["weights"][-1] == 0
        for number in range(1, int(rows["documents"].max()) + 1):
            own = rows["documents"] == number
            kinds, places = job.vocabulary.states(rows["ids"][own])
            assert torch.equal(rows["kinds"][own], kinds) and torch.equal(rows["places"][own], places)


def test_weights_by_modality_and_by_who_gives_it(job):
    seen = set()
    for g in range(60):
        parts = job.documents.draw(0, g)
        rows = dict(zip(FIELDS, job.packer.document(parts), strict=True))
        wanted = []
        for part in parts:
            weight = WEIGHTS[part.modality] * (WEIGHTS["given"] if part.given else 1)
            wanted += [(round(1000 * weight), MODALITIES.index(part.modality))] * len(job.packer.segment(part))
            seen.add((part.modality, part.given))
        wanted += wanted[-1:]  # STOP belongs to the last part
        found = list(zip(rows["weights"].tolist(), rows["modalities"].tolist(), strict=True))
        assert found[:-1] == wanted and found[-1][0] == 0
    assert len(seen) == 6


@torch.no_grad()
def test_a_packed_batch_costs_what_its_documents_cost_one_by_one(job):
    task = TransformerObjective(job.model, job.vocabulary, job.weights).eval()
    (_, batch), *_ = job.batches(start_step=0, steps=1, rank=0, world_size=1)
    assert batch.shape == (4, len(FIELDS), CONTEXT)
    total, terms = task(batch)
    nats, weight, asked = 0.0, 0.0, {m: [] for m in MODALITIES}
    for row in batch:
        for number in range(1, int(row[2].max()) + 1):
            alone = row[None, :, row[2] == number]
            losses, weights, modalities = task.losses(alone)
            torch.testing.assert_close(losses, slow_losses(job, alone[0]), rtol=1e-4, atol=1e-4)
            nats += float((losses * weights).sum())
            weight += float(weights.sum())
            for m, modality in enumerate(MODALITIES):
                full = weights == round(1000 * WEIGHTS[modality])
                asked[modality] += losses[full & (modalities == m)].tolist()
    assert float(total) == pytest.approx(nats / weight, rel=1e-5)
    assert set(terms) == set(map(str, MODALITIES))
    for modality, values in asked.items():
        assert float(terms[modality]) == pytest.approx(sum(values) / len(values), rel=1e-4)


@torch.no_grad()
def slow_losses(job: TransformerJob, rows: torch.Tensor) -> torch.Tensor:
    """Return the losses of one document, id by id, from the masked softmax over the whole vocabulary."""
    ids, places, _, _, weights, *_ = rows
    logits = job.model.logits(job.model(ids[None], places[None]))[0]
    found, at = [], job.vocabulary.start()
    for step, id in enumerate(ids[1:].tolist()):
        if weights[step]:
            allowed = logits[step].masked_fill(~job.vocabulary.mask(at), -math.inf)
            found.append(-allowed.log_softmax(0)[id])
        at = at.advance(id)
    return torch.stack(found)


@torch.no_grad()
def test_a_batch_in_parts_has_the_loss_of_the_whole(job):
    task = TransformerObjective(job.model, job.vocabulary, job.weights).eval()
    (_, batch), *_ = job.batches(start_step=3, steps=4, rank=0, world_size=1)
    whole, _ = task(batch)
    for parts in (2, 4):
        assert float(sum(task(part)[0] for part in batch.chunk(parts)) / parts) == pytest.approx(float(whole), rel=1e-5)


def test_ranks_share_out_the_batch(job):
    (_, whole), *_ = job.batches(start_step=5, steps=6, rank=0, world_size=1)
    for rank in range(2):
        (_, mine), *_ = job.batches(start_step=5, steps=6, rank=rank, world_size=2)
        assert torch.equal(mine[:, :-1], whole[rank::2, :-1])


# -- documents and the context ------------------------------------------------------------------


def test_kinds_that_do_not_fit_are_refused_with_both_lengths(there, tmp_path):
    """A document has four images of 16 codes, BEGIN and two sizes each, DOCUMENT and STOP."""
    cfg = documents_of(there, tmp_path, [{"kind": "analogy", "source": "emoji"}])
    cfg.omni["transformer"]["context"] = 77
    says = "documents of analogy over emoji take up to 78 tokens; the context has 77"
    with pytest.raises(ValueError, match=says) as error:
        train(cfg)
    assert one_line(error) and not (tmp_path / "run").exists()
    cfg.omni["transformer"]["context"] = 78
    cfg.data["dropout"] = 0.0
    packer = TransformerJob(cfg).packer
    assert packer.pack([packer.document(packer.documents.draw(0, 0))]).shape == (len(FIELDS), 78)


def test_a_rare_document_that_does_not_fit_is_left_out_whole_and_told_of(there, tmp_path):
    """One caption in 23 is too long. Training and validation leave its document out and never cut it."""
    long = {"red heart": ["h" * CONTEXT]}
    kinds = [{"kind": "caption", "source": "emoji", "aliases": long, "reverse": 0.0}]
    job = lively(TransformerJob(documents_of(there, tmp_path, kinds, dropout=0.0)))
    with pytest.warns(UserWarning, match=r"a document of \d+ tokens is longer than the context of 160"):
        batch = torch.stack([job.packer.sequence(0, slot) for slot in range(40)])
    for row in batch:
        for number in range(1, int(row[2].max()) + 1):
            assert row[0, row[2] == number][-1] == STOP
    transformer.VALIDATED = 120  # the fixture restores it
    with pytest.warns(UserWarning, match="such documents are left out"):
        figures = job.validate(job.model, torch.device("cpu"), tmp_path, 1)
    assert figures["bits_per_pixel"] > 0
    with pytest.raises(ValueError, match="documents of 170 tokens do not fit into a sequence of 160"):
        job.packer.pack([torch.zeros(len(FIELDS), 85).long()] * 2)


# -- metrics ------------------------------------------------------------------------------------


def test_figures_are_in_each_modalitys_currency(job, tmp_path):
    """A rate is bits of the parts outside prompts over their bytes, pixels or seconds."""
    figures = job.validate(job.model, torch.device("cpu"), tmp_path, 7)
    nats, count, size = {m: 0.0 for m in MODALITIES}, {m: 0 for m in MODALITIES}, {m: 0.0 for m in MODALITIES}
    for g in range(12):
        parts = job.validation.draw(job.cfg.seed + 1, g)
        rows = job.packer.document(parts)
        rows[4, :-1] = 1
        losses, at = slow_losses(job, rows), 0
        for part in parts:
            n = len(job.packer.segment(part)) + (part is parts[-1])
            if not part.given:
                nats[part.modality] += float(losses[at : at + n].sum())
                count[part.modality] += n
                if part.modality is Modality.TEXT:
                    size[part.modality] += len(part.text.encode())
                elif part.modality is Modality.IMAGE:
                    size[part.modality] += 32 * 32
                else:
                    size[part.modality] += int(job.packer.codes(part).sizes[0, 0]) / 8000
            at += n
        assert at == len(losses)
    for modality, name in (("text", "bits_per_byte"), ("image", "bits_per_pixel"), ("audio", "kbps")):
        scale = 1e-3 if name == "kbps" else 1
        assert count[modality] > 20
        assert figures[name] == pytest.approx(nats[modality] / math.log(2) / size[modality] * scale, rel=1e-4)
        assert figures[f"{modality}_perplexity"] == pytest.approx(math.exp(nats[modality] / count[modality]), rel=1e-4)
    shown = codecs.read(tmp_path / "0000007.png")
    assert shown.shape[1] == 64 and shown.shape[2] % 32 == 0  # decoded targets above, generated images below


# -- whole trainings ----------------------------------------------------------------------------


def test_it_learns_and_the_model_that_it_leaves_generates(there, tmp_path):
    cfg = config(there, tmp_path / "run", steps=70, validate_every=35)
    cfg.validation = {**cfg.data, "kinds": KINDS[:1] + KINDS[4:5], "dropout": 0.0}
    out = train(cfg)
    values = losses_of(out)
    assert len(values) == 70 and sum(values[-10:]) < 0.75 * sum(values[:10])
    logged = log(out)
    for name in ("bits_per_byte", "bits_per_pixel", "kbps", "text_perplexity", "image_perplexity", "audio_perplexity"):
        assert 0 < logged[70, f"validation/{name}"] < logged[35, f"validation/{name}"] * 1.2
    assert {"text", "image", "audio"} <= {name for _, name in logged}
    assert {"model.safetensors", "config.yaml", "state.pt", "samples"} <= {p.name for p in out.iterdir()}
    assert [p.name for p in sorted((out / "samples").iterdir())] == [
        f"{step:07d}{end}" for step in (35, 70) for end in ("-generated.wav", "-original.wav", "-text.txt", ".png")
    ]
    lines = (out / "samples" / "0000070-text.txt").read_text().splitlines()
    assert 1 <= len(lines) <= transformer.MAX_SAMPLES and all(" → " in line for line in lines)

    model = models.load(out)
    assert model.vocabulary.fingerprints["pictures"] == tiny("image/fsq").fingerprint.hex()
    (image,) = model.generate(["red heart"], "image", seed=0)
    assert image.shape == (3, 32, 32)
    assert isinstance(model.generate([image], "text", seed=0)[0], str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # after so few steps a sound may have no end
        assert model.generate(["seven"], "audio", seed=0)[0].ndim == 2
    codecs_beside = {p.name for p in out.iterdir() if p.is_dir()} - {"samples", "tensorboard"}
    assert codecs_beside == {"pictures", "sounds"}


def test_interrupted_and_resumed_equals_straight(there, tmp_path):
    straight = train(config(there, tmp_path / "straight"))
    parts = tmp_path / "parts"
    train(config(there, parts, stop_after=7))
    assert state.load(parts)["step"] == 7
    train(config(there, parts, resume=True, workers=2))
    assert same(state.load(parts), state.load(straight))
    assert (parts / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    a, b = ({k: v for k, v in log(out).items() if k[1] != "items_per_second"} for out in (straight, parts))
    assert all(b[key] == value for key, value in a.items())


def test_another_run_is_not_gone_on_with(there, tmp_path):
    out = tmp_path / "run"
    train(config(there, out, steps=3, stop_after=1))
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = prepared(tmp_path / "other")
    changed = codecs.load(other / "pictures")
    with torch.no_grad():
        next(changed.decoder.parameters()).add_(0.01)
    codecs.save(changed, other / "pictures")

    def resumed(**changes) -> TrainConfig:
        return config(there, out, **({"resume": True, "steps": 3} | changes))

    kinds, wide, codec = resumed(), resumed(), resumed()
    kinds.data["kinds"] = KINDS[:2]
    wide.omni["transformer"]["width"] = 64
    codec.omni["channels"][1]["codec"] = str(other / "pictures")
    for cfg, says in (
        (kinds, "data.kinds="), (wide, "omni.transformer.width=32"), (codec, "fingerprints.pictures="),
        (resumed(losses={**WEIGHTS, "given": 0.2}), "losses.given=0.1; it cannot go on with 0.2"),
        (resumed(seed=1), "seed=0"), (resumed(task="codec", omni={}), "no codec"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says) as error:
            train(cfg)
        assert one_line(error)
    codecs.save(changed, there / "pictures")  # the same path, another codec
    try:
        with pytest.raises(ValueError, match=r"fingerprints\.pictures") as error:
            train(resumed())
    finally:
        codecs.save(tiny("image/fsq"), there / "pictures")
    assert one_line(error)
    assert files == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_batch_in_which_nothing_weighs_costs_nothing(there, tmp_path):
    cfg = documents_of(there, tmp_path, [{"kind": "caption", "source": "words", "reverse": 1.0, "copies": 1}])
    cfg.losses = {"text": 0.0, "given": 0.0}
    cfg.data["dropout"] = 0.0
    run = Run(cfg)
    ((_, batch),) = run.job.batches(start_step=0, steps=1, rank=0, world_size=1)
    terms = run._update(0, batch)
    assert terms["loss"] == 0 and terms["gradient_norm"] == 0
    assert set(terms) == {"loss", "image", "audio", "gradient_norm"}
    run.logs.close()


TOGETHER = """
from pathlib import Path
import torch.distributed as distributed
from test_transformer_task import shared, transformer
from tokenloom.train.loop import train
transformer.VALIDATED = 4
train(shared(Path(sys.argv[2]), Path(sys.argv[1]) / "run"))
"""


def shared(there: Path, out: Path) -> TrainConfig:
    """Return a config in float32, without dropout (each process draws its own), with two parts per step."""
    cfg = config(there, out, steps=5, batch_size=8, accumulate=2, precision="32-true")
    cfg.omni["transformer"]["dropout"] = 0.0
    return cfg


@pytest.mark.usefixtures("loopback")
def test_two_processes_are_one_with_the_same_batch(there, tmp_path):
    """The token weights of the two halves differ. The tolerance is that of test_scale.py."""
    process = start(TOGETHER, tmp_path / "two", there, processes=2)
    run = Run(shared(there, tmp_path / "one"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.go()
    finish(process)
    together, alone = state.load(tmp_path / "two" / "run")["model"], state.load(tmp_path / "one")["model"]
    assert distance(together, alone) < 0.01 * distance(before, alone)
    for a, b in zip(losses_of(tmp_path / "two" / "run"), losses_of(tmp_path / "one"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert models.load(tmp_path / "two" / "run").generate(["red heart"], "image", seed=0)[0].shape == (3, 32, 32)


# -- mistakes of users --------------------------------------------------------------------------


def of(section: str, **changes):
    """Return changes within a section of the config."""

    def change(cfg: TrainConfig) -> None:
        getattr(cfg, section).update(changes)

    return change


def channel(at: int, **changes):
    def change(cfg: TrainConfig) -> None:
        cfg.omni["channels"][at].update(changes)

    return change


def whole(**changes):
    def change(cfg: TrainConfig) -> None:
        vars(cfg).update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            of("data", kinds=[{"kind": "poem", "source": "emoji"}]),
            "kind must be one of caption, edit, style, analogy, series, sum, got 'poem'",
        ),
        (
            of("data", kinds=[{"kind": "caption", "source": "cats"}]),
            "source must be one of emoji, digits, words, scenes, got 'cats'",
        ),
        (
            of("data", kinds=[{"kind": "caption", "source": "emoji", "share": 0}]),
            "share of caption must be a positive number, got 0",
        ),
        (of("data", kinds=[{**KINDS[0], "channel": "sounds"}]), "holds image, the channel sounds is for audio"),
        (of("data", kinds=[{"kind": "caption", "source": "emoji", "channel": "video"}]), "channel or modality 'video'"),
        (of("data", kinds=[]), "needs data.kinds"),
        (of("data", sources={}), "needs data.sources"),
        (of("data", colour=3), "takes no 'colour'; it takes sources, kinds"),
        (of("data", folder="no/such/folder"), "no/such/folder/emoji.tar"),
        (whole(data={"name": "folder", "path": "."}), "task=transformer needs data=documents"),
        (whole(data={}), "no data chosen"),
        (whole(validation={"name": "words"}), "needs data=documents"),
        (whole(task="codec", codec={"name": "image/fsq"}, losses={}), "data=documents is for task=transformer"),
        (whole(omni={}), "no omni chosen; omni=small"),
        (of("omni", layers=2), "layers"),
        (of("omni", channels=[]), "channels"),
        (of("omni", channels=[{"name": "text/bytes"}]), "unknown channel or modality 'image'"),
        (channel(1, codec="no-such-codec"), "no-such-codec"),
        (channel(1, codec="image/png"), "cannot enter a vocabulary"),
        (channel(1, size=[64, 64]), "has an item of 32 x 32; the channel pictures has 64 x 64"),
        (channel(2, setting=7), "7"),
        (lambda cfg: cfg.omni["channels"].pop(0), "unknown channel or modality 'text'"),
        (lambda cfg: cfg.omni["transformer"].update(heads=3), "heads"),
        (lambda cfg: cfg.omni["transformer"].update(context=40), "the context has 40"),
        (of("losses", l1=1.0), "unknown loss of task=transformer 'l1'; known: text, image, audio, given"),
        (of("losses", video=1.0), "unknown loss of task=transformer 'video'; known: text, image, audio, given"),
        (of("losses", text=-1.0), "losses.text must be 0 or from 0.001 to 1000, got -1.0"),
        (of("losses", image=float("nan")), "got nan"),
        (of("losses", image=1e-5), "losses.image must be 0 or from 0.001 to 1000, got 1e-05"),
        (of("losses", image="much"), "got 'much'"),
        (whole(losses={"text": 0.0, "image": 0.0, "audio": 0.0}), "nothing to learn"),
    ],
)
def test_mistakes_are_one_line(there, tmp_path, change, says):
    cfg = config(there, tmp_path / "run")
    change(cfg)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        train(cfg)
    assert says in str(error.value) and one_line(error), str(error.value)
    assert not list(tmp_path.iterdir())


def test_codecs_do_not_take_the_transformers_losses(there, tmp_path):
    cfg = config(there, tmp_path / "run", task="codec", codec={"name": "image/fsq"}, omni={}, losses={"given": 1.0})
    cfg.data = {"name": "scenes", "count": 4, "size": 32}
    with pytest.raises(ValueError, match="given") as error:
        train(cfg)
    assert one_line(error) and not list(tmp_path.iterdir())


def test_documents_are_a_function_of_their_config(there):
    """A resumed training relies on this. The expected values are fixed numbers."""
    some = Documents(sources(there), KINDS, {"image": 4, "audio": 2}, folder=str(there))
    found = ["".join(part.modality[0] + str(part.item) for part in some.draw(0, g)) for g in range(6)]
    assert found == ["t0i21", "t0i3", "a7", "a0t0a0t0a0", "t0a19", "i10t0i9"]


def test_signals_that_a_target_is_out_of_reach_of_have_all_their_tokens(tmp_path):
    codec = tiny("image/flex")
    channel = Channel("flex", codec, Target(psnr=99))
    node = {"name": "words", "count": 3, "size": 48}
    with pytest.warns(UserWarning, match=r"does not reach Target\(psnr=99\)"):
        found = table(data.open_source(**node), node, channel, 1, tmp_path)
    full = codec.encode(data.open_source(**node)[1].signal[None])
    assert torch.equal(found[1, 0].indices, full.indices) and torch.equal(found[1, 0].lengths, full.lengths)
