"""Evaluation of a multimodal model: scores, measurements and report."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.codecs import one_line, tiny

from tokenloom import codecs, models
from tokenloom.codecs import checkpoint, media
from tokenloom.data.documents.emoji import TONES
from tokenloom.data.documents.kinds import DIGITS
from tokenloom.data.sources import words
from tokenloom.eval.classifiers import spoken_words
from tokenloom.eval.metric import wilson
from tokenloom.eval.omni import bits_table, cost, pictures, speech, styles
from tokenloom.eval.omni import evaluate as omni
from tokenloom.eval.omni import tables as omni_tables
from tokenloom.eval.omni.packs import Missing, PackFolder, draw, parallels, source_of
from tokenloom.eval.omni.records import share
from tokenloom.eval.omni.scoring import Gallery, neighbors, read_word
from tokenloom.eval.omni.session import Answer, OmniSession
from tokenloom.models.transformer import Transformer
from tokenloom.models.vocabulary import DOCUMENT, Channel, Vocabulary

SHARED = Path(__file__).parents[3] / "shared" / "data"
RATE = 8000
FIGURES = ("thumbs up", "ear", "woman")


# -- a model with random weights, and packs of four figures and ten tones -------------------------


def picture(figure: str, tone: str) -> torch.Tensor:
    """Draw a colored shape, 32 by 32 pixels on white."""
    x = torch.ones(3, 32, 32)
    row, shade = 4 + 6 * (*FIGURES, "keycap").index(figure), TONES.index(tone) * 0.15 if tone in TONES else 0.0
    x[:, row : row + 6, 4:24] = torch.tensor([0.9 - shade, 0.6 - shade / 2, 0.3])[:, None, None]
    if figure == "keycap":
        x[:, 2:30, 26 : 28 + int(tone) % 4] = int(tone) / 10
    return x


def tone_of(word: str, seed: int) -> torch.Tensor:
    """Return a "word": two tones of its own, with a loudness and length that depend on the take."""
    at = DIGITS.index(word)
    noise = torch.Generator().manual_seed(100 * at + seed)
    t = torch.arange(int(RATE * (0.09 + 0.004 * (seed % 5)))) / RATE
    wave = torch.sin(2 * math.pi * (200 + 60 * at) * t) + 0.5 * torch.sin(2 * math.pi * (1500 + 150 * (9 - at)) * t)
    return (wave[None] * (0.2 + 0.02 * (seed % 7)) + 0.005 * torch.randn(1, len(t), generator=noise)).clamp(-1, 1)


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    unseen = {("thumbs up", "dark"), ("ear", "medium")}
    toned = [(figure, tone) for figure in FIGURES for tone in TONES]
    items = {"train": [(f"keycap {d}", picture("keycap", str(d))) for d in range(10)], "test": []}
    for figure, tone in toned:
        items["test" if (figure, tone) in unseen else "train"].append(
            (f"{figure} {tone} skin tone", picture(figure, tone))
        )
    for split, pairs in items.items():
        with tarfile.open(folder / f"emoji64-{split}.tar", "w") as archive:
            for i, (caption, pixels) in enumerate(pairs):
                png = io.BytesIO()
                Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy()).save(png, "PNG")
                add(archive, f"{i:03d}.png", png.getvalue())
                add(archive, f"{i:03d}.txt", caption.encode())
    styled = {"train": [], "test": []}
    for n, (figure, tone) in enumerate(toned):
        for style in ("flat", "round"):
            styled["test" if (n + len(style)) % 6 == 0 else "train"].append((figure, tone, style))
    for split, triples in styled.items():
        with tarfile.open(folder / f"styles64-{split}.tar", "w") as archive:
            for i, (figure, tone, style) in enumerate(triples):
                png = io.BytesIO()
                pixels = picture(figure, tone) * (0.8 if style == "flat" else 0.6)
                Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy()).save(png, "PNG")
                add(archive, f"{i:03d}.png", png.getvalue())
                add(archive, f"{i:03d}.txt", f"{figure} {tone} skin tone".encode())
                add(archive, f"{i:03d}.json", json.dumps({"style": style}).encode())
    for split, takes in (("train", range(3, 9)), ("test", range(2))):
        with tarfile.open(folder / f"spoken_digits-{split}.tar", "w") as archive:
            for word in DIGITS:
                for take in takes:
                    sound = media.encode_audio(tone_of(word, take), RATE, format="FLAC", subtype="PCM_16")
                    add(archive, f"{word}_{take}.flac", sound)
                    add(archive, f"{word}_{take}.txt", word.encode())
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Model with text, sound and two picture channels, one of variable length, and random weights."""
    channels = [
        Channel("text/bytes", codecs.build("text/bytes")),
        Channel("squares", tiny("image/fsq")),
        Channel("flexible", tiny("image/flex")),
        Channel("sound", tiny("audio/rvq"), 2),
    ]
    vocabulary = Vocabulary(channels)
    torch.manual_seed(0)
    network = Transformer(vocabulary.size, vocabulary.places, width=32, layers=1, heads=2, kv_heads=1, context=440)
    sizes = {"squares": (32, 32), "flexible": (32, 32), "sound": (400,)}
    folder = tmp_path_factory.mktemp("model")
    models.save(models.Omni(vocabulary, network, sizes=sizes, defaults={"temperature": 0.9}), folder)
    return str(folder)


@pytest.fixture
def session(model, packs, tmp_path, monkeypatch) -> OmniSession:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(spoken_words, "EPOCHS", 2)
    return OmniSession(model, PackFolder(packs), tmp_path / "out", limit=4)


# -- retrieval -----------------------------------------------------------------------------------


def test_the_nearest_of_a_gallery_is_the_one_a_slow_loop_finds():
    torch.manual_seed(0)
    pictures = list(torch.rand(40, 3, 8, 8).mul(255).round() / 255)
    queries = [(p + 0.2 * torch.randn(3, 8, 8)).clamp(0, 1) for p in pictures[:20]]
    slow = [min(range(40), key=lambda i: (media.to_uint8(q).double() - media.to_uint8(pictures[i])).square().sum())
            for q in queries]  # fmt: skip
    assert Gallery(pictures).nearest(queries) == slow


def test_identical_pictures_count_as_right_and_near_ones_do_not():
    a = torch.rand(3, 8, 8).mul(255).round() / 255
    almost = a.clone()
    almost[0, 0, 0] = (almost[0, 0, 0] * 255 + (1 if almost[0, 0, 0] < 0.5 else -1)) / 255
    gallery = Gallery([a, almost, a.clone()])
    assert gallery.hits([a, a, almost], [0, 2, 0]) == [True, True, False]
    with pytest.raises(ValueError, match=r"\(3, 8, 9\)") as error:
        gallery.nearest([torch.zeros(3, 8, 9)])
    assert one_line(error)


def test_a_word_is_read_back_and_one_letter_off_is_wrong():
    assert len(neighbors("AB")) == len(set(neighbors("AB"))) == 51
    for word in ("SHIP", "OQ", "EFE"):
        assert read_word(words.render(word, "red", 32), word, "red") == word
    assert read_word(words.render("SHOP", "red", 32), "SHIP", "red") == "SHOP"


@pytest.mark.parametrize(
    "right, n, low, high", [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_wilson(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-4)
    assert wilson(0, 0) is None


# -- packs ---------------------------------------------------------------------------------------


def test_sources_and_parallels_stay_within_the_training_pack(packs):
    train, test = (PackFolder(packs)[f"emoji64-{split}"] for split in ("train", "test"))
    source = source_of("ear medium skin tone", train)
    assert train.captions[source] in ("ear medium-light skin tone", "ear medium-dark skin tone")
    assert source_of("keycap 3", train) is None
    assert [(f, train.captions[a], test.captions[b]) for f, a, b in parallels(train, test)] == [
        ("thumbs up", "thumbs up light skin tone", "thumbs up dark skin tone")
    ]


def test_draw_is_a_sorted_subset_of_the_seed():
    assert draw(5, None, 0) == draw(5, 9, 0) == [0, 1, 2, 3, 4]
    some = draw(100, 10, 1)
    assert some == sorted(set(some)) == draw(100, 10, 1) != draw(100, 10, 2) and len(some) == 10


def test_packs_say_what_is_missing(packs, tmp_path):
    with pytest.raises(Missing, match=r"emoji64-train.tar.*packs=FOLDER"):
        PackFolder(None)["emoji64-train"]
    with pytest.raises(Missing, match=r"emoji64-train.tar.*not in"):
        PackFolder(tmp_path)["emoji64-train"]
    with pytest.raises(FileNotFoundError, match="not a folder"):
        PackFolder(tmp_path / "nowhere")


# -- the spoken-word classifier ------------------------------------------------------------------


def test_the_classifier_learns_repeats_itself_and_is_kept(packs, tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_words, "EPOCHS", 8)
    monkeypatch.setattr(spoken_words, "BATCH", 6)
    train, test = (PackFolder(packs)[f"spoken_digits-{split}"] for split in ("train", "test"))
    first = spoken_words.trained(train.signals, train.captions, tmp_path)
    recognized = first.classify(test.signals)
    assert sum(a == b for a, b in zip(recognized, test.captions, strict=True)) >= 15, "of 20; chance gives 2"
    assert first.classify([x * 0.3 for x in test.signals]) == recognized, "loudness is no feature"
    again = spoken_words.train(train.signals, train.captions)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    monkeypatch.setattr(spoken_words, "train", None)  # the cached network is used
    kept = spoken_words.trained(train.signals, train.captions, tmp_path)
    assert kept.classify(test.signals) == recognized
    with pytest.raises(TypeError):  # other clips are not in the cache
        spoken_words.trained(train.signals[1:], train.captions[1:], tmp_path)


def test_silence_and_a_clip_of_one_sample_are_recognized_as_some_word(packs):
    network = spoken_words.SpokenWordClassifier(DIGITS)
    assert set(network.classify([torch.zeros(1, 800), torch.ones(1, 1) * 0.1, torch.zeros(1, 30_000)])) <= set(DIGITS)
    assert network.classify([]) == []
    with pytest.raises(ValueError, match="8000 Hz"):
        network.classify([torch.zeros(2, 800)])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_the_recipe_keeps_to_the_clips_it_is_shown():
    clip = PackFolder(SHARED)["spoken_digits-test"].signals[0]
    assert clip.shape[0] == 1 and spoken_words.spectrogram(clip).shape == (spoken_words.MELS, spoken_words.FRAMES)


# -- figures -------------------------------------------------------------------------------------


def test_a_model_that_answers_right_gets_every_trial(session, monkeypatch):
    """Replace the model's answers by reconstructions of the codec: each value is then its ceiling."""
    pack = session.packs["emoji64-test"]

    def perfect(prompts, to, label=""):
        results = [session.images.pictures[session.images.index[prompt[0]]] for prompt in prompts]
        return [Answer(result, 4) for result in session.reconstruct(results)]

    monkeypatch.setattr(session, "ask", perfect)
    figure = pictures.caption_to_picture(session)
    assert share(figure.hits) == figure.ceiling and len(figure.hits) == len(pack)
    assert set(figure.detail) == {"figure right", "tone right", "of captions with one tone"}


def test_instruction_prompts_hold_a_trained_picture_and_the_tone_wanted(session, monkeypatch):
    asked = []

    def record(prompts, to, label=""):
        asked.extend(prompts)
        return [Answer(prompt[0], 4) for prompt in prompts]

    monkeypatch.setattr(session, "ask", record)
    figure = pictures.instructed(session)
    assert [prompt[1] for prompt in asked] == ["make it dark skin tone", "make it medium skin tone"]
    train = session.packs["emoji64-train"]
    assert all(any(torch.equal(prompt[0], x) for x in train.signals) for prompt in asked)
    assert not any(figure.hits) and figure.detail["left as it was"] == 1.0


def test_styles_are_asked_for_in_words_and_by_instruction(session, monkeypatch):
    asked, test = [], session.packs["styles64-test"]

    def record(prompts, to, label=""):
        asked.append(prompts)
        return [Answer(prompt[0], 4) for prompt in prompts]

    def perfect(prompts, to, label=""):
        return [Answer(test.signals[test.index[prompt[0]]], 4) for prompt in prompts]

    monkeypatch.setattr(session, "ask", perfect)
    figure = styles.styled_caption(session)
    assert all(figure.hits) and figure.detail == {"emoji right": 1.0, "style right": 1.0}
    assert len(session.styled_images.gallery) == 25 + 30 and len(figure.hits) == 4
    monkeypatch.setattr(session, "ask", record)
    figure = styles.restyled(session)
    (prompts,) = asked
    assert len(prompts) == 4
    for picture, instruction in prompts:
        name = session.styled_images.nearest_captions([picture])[0]
        emoji = name.partition(", ")[0]
        assert (", " not in name) == (emoji in session.packs["emoji64-train"].index), (
            "the pack without a style is first"
        )
        assert f"{emoji}, {instruction.removeprefix('draw it as ')}" in test.captions and name not in test.captions
    assert not any(figure.hits) and figure.detail["style right"] == 0.0
    assert styles._other(session.packs, "thumbs up dark skin tone, flat") is not None  # in the other style alone
    assert styles._other(session.packs, "a snail, flat") is None


def test_takes_that_sound_alike_count_once():
    a = torch.rand(1, 50)
    assert speech.count_distinct([a, a + 1e-6, a * 0.5, a[:, :40]]) == 3


def test_keycaps_are_asked_for_by_sound_and_back(session):
    figure = speech.spoken_to_keycap(session)
    assert len(figure.hits) == 4 and set(figure.detail) == {"through its own text", "any keycap"}
    figure = speech.keycap_to_spoken(session)
    assert len(figure.hits) == 10 and 0 <= figure.ceiling <= 1


def test_simple_pictures_are_the_lower_half_by_coded_size(session):
    plain, busy = torch.ones(3, 32, 32), torch.rand(3, 32, 32)
    sizes = cost.coded_size([plain, busy])
    assert sizes[0] < sizes[1]
    records = cost.variable_length(session)
    assert [r.key for r in records] == ["flexible_tokens", "flexible_seconds"]
    assert all(r.value > 0 and r.reached is (r.value <= 0.5) for r in records)


def test_a_model_without_variable_length_says_so(session, monkeypatch):
    monkeypatch.setattr(cost, "varies", lambda codec: False)
    with pytest.raises(Missing, match="variable length"):
        cost.variable_length(session)


def test_the_table_of_bits_adds_up(session):
    table = bits_table.measure(session)
    rows = {row.channel: row for row in table.rows}
    assert set(rows) == {"text/bytes", "squares", "flexible", "sound"} and not table.absent
    assert rows["text/bytes"].bits_per_token.nominal == 8
    assert rows["sound"].vocabulary == 64 and rows["sound"].quantizers == 2
    assert rows["squares"].tokens == 16 and rows["squares"].rate.nominal == pytest.approx(
        rows["squares"].bits_per_item.nominal / 1024
    )
    for kind in ("tokens", "bits", "compute"):
        assert sum(getattr(rows[name].share, kind) for name in ("text/bytes", "squares", "sound")) == pytest.approx(1)
    assert all(cells for cells in omni_tables.lines(table)[1:])


def test_bits_are_those_of_an_uncached_walk(session):
    """Slow twin: the bits of one document, step by step, from the logits over the ids that the grammar allows."""
    vocabulary, network = session.omni.vocabulary, session.omni.transformer
    text = vocabulary.segment("text/bytes", vocabulary.channels["text/bytes"].encode(["ear"]))[0]
    mark = vocabulary.segment("text/bytes", vocabulary.channels["text/bytes"].encode(["a longer text"]))[0]
    ids, state, bits = torch.tensor([DOCUMENT]), vocabulary.start(), 0.0
    ids, state = torch.cat([ids, text[:1]]), state.advance(int(text[0]))  # BEGIN is what was asked for
    for id in text[1:].tolist():
        _, places = vocabulary.states(ids)
        with torch.no_grad():
            logits = network.logits(network(ids[None], places[None])[0, -1], vocabulary.kinds[state.kind])
        at = vocabulary.kinds[state.kind].tolist().index(id)
        bits -= logits.log_softmax(0)[at].item() / math.log(2)
        ids, state = torch.cat([ids, torch.tensor([id])]), state.advance(id)
    assert bits_table.bits_of(session, [[text], [mark]], 1)[0].item() == pytest.approx(bits, rel=1e-4)


# -- the whole -----------------------------------------------------------------------------------


def test_files_and_report(model, packs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(spoken_words, "EPOCHS", 1)
    rows = ["samples", "spoken_to_text", "text_to_spoken", "analogy", "bits"]
    found = omni.evaluate(model, packs, tmp_path, items=3, rows=rows)
    assert [r.key for r in found.records] == ["spoken_to_text", "text_to_spoken", "analogy"]
    assert json.loads((tmp_path / "omni.json").read_text())["records"][0]["n"] == 3
    with (tmp_path / "omni.csv").open() as file:
        assert [row["key"] for row in csv.DictReader(file)] == ["spoken_to_text", "text_to_spoken", "analogy"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/webp") >= 6 and page.count("data:audio/flac") >= 3 and "at most 3 trials" in page
    for record in found.records:
        assert 0 <= record.value <= 1 and omni_tables.value(record) in page


def test_without_packs_figures_are_absent_with_the_reason(model, tmp_path):
    found = omni.evaluate(model, None, tmp_path, items=1, rows=["caption_to_picture", "rendered_words", "bits"])
    assert [r.key for r in found.records] == ["rendered_words"]
    assert "packs=FOLDER" in found.absent["caption → picture, unseen combinations"]
    assert set(found.bits.absent) == {"text/bytes", "squares", "flexible", "sound"}


def test_the_report_of_a_comparison_gets_a_section_more(model, tmp_path):
    from tokenloom import data
    from tokenloom.eval.compare import compare

    (tmp_path / "note.txt").write_text("every signal becomes integers")
    compare(["text/bytes"], data.open_source("folder", path=str(tmp_path)), tmp_path / "out")
    assert 'id="generated"' not in (tmp_path / "out" / "report.html").read_text()
    omni.evaluate(model, None, tmp_path / "out", rows=["samples"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="generated"' in page and 'id="numbers"' in page and "text/bytes" in page


def test_figures_that_came_with_the_model_stand_in_the_report(model, tmp_path):
    from shutil import copytree

    folder = copytree(model, tmp_path / "model")
    described = {"key": "analogy", "title": "analogy, as shipped", "goal": "≥ 50 %", "value": 0.25, "unit": "share"}
    record = {**described, "n": 4, "interval": None, "ceiling": None, "detail": {}, "reached": False, "trained": False}
    where = {"date": "2026-01-01 00:00 UTC", "machine": "a shelf", "seed": 0, "seconds": 1.0}
    came = {"records": [record], "bits": None, "environment": where, "definitions": {}}
    (folder / omni.SHIPPED).write_text(json.dumps(came))
    omni.evaluate(str(folder), None, tmp_path / "out", rows=["samples"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "analogy, as shipped" in page and "2026-01-01" in page and "a shelf" in page


def test_mistakes_are_one_line(model, packs, tmp_path):
    for arguments in (
        {"rows": ["flying"]}, {"items": 0}, {"items": "all"}, {"seed": -1}, {"sampling": {"temperature": "hot"}},
        {"sampling": {"top": 3}},
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            omni.evaluate(model, packs, tmp_path, **arguments)
        assert one_line(error)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        omni.evaluate(model, tmp_path / "nowhere", tmp_path)


def test_a_model_is_distinguished_from_a_codec(model):
    assert checkpoint.describes(str(model), "omni")
    assert not any(checkpoint.describes(name, "omni") for name in ("image/jpeg", "emoji-fsq", "no such thing"))


def test_from_the_command_line(model, tmp_path, capsys, monkeypatch):
    from tokenloom.cli.main import main

    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", model, "rows=[rendered_words]", "items=2", "out=here"]) == 0
    shown = capsys.readouterr()
    assert "rendered words" in shown.out and "report.html" in shown.out
    assert (tmp_path / "here" / "omni.json").is_file()
    assert main(["evaluate", model, "rows=[flying]"]) == 2
    assert "flying" in (line := capsys.readouterr().err) and line.count("\n") == 1
    for mistake in (["--modelled"], ["pack=here"], ["items=few"]):
        assert main(["evaluate", model, *mistake]) == 2
        assert capsys.readouterr().err.count("\n") == 1
