"""Speech of a synthesizer as a data source. Tests skip where their synthesizer is not installed."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal

import numpy as np
import pytest
import torch
from support.packs import flac, write_tar

from tokenloom.data import BrokenItem, open_source
from tokenloom.data.documents.documents import Documents
from tokenloom.data.speech import synthesizer
from tokenloom.data.speech.sentences import spoken, words


def installed(name: str) -> bool:
    try:
        synthesizer.check(name)
    except ValueError:
        return False
    return True


needs = {
    name: pytest.mark.skipif(not installed(name), reason=f"{name} is not installed") for name in synthesizer.VOICES
}
EVERY = [pytest.param(name, marks=mark) for name, mark in needs.items()]
espeak = needs[synthesizer.ESPEAK]


def open_spoken(name: str = synthesizer.ESPEAK, **kwargs):
    split = "train" if name == synthesizer.ESPEAK else "test"
    return open_source("spoken", **{"count": 6, "synthesizer": name, "split": split, **kwargs})


@pytest.mark.parametrize("name", EVERY)
def test_items_are_audible_and_last_as_long_as_their_words(name):
    for item in open_spoken(name).items(strict=True):
        assert item.signal.shape[0] == 1 and item.signal.dtype == torch.float32
        assert float(item.signal.abs().max()) == pytest.approx(0.7, abs=1e-3)
        loud = item.signal[0].unfold(0, item.sample_rate // 10, item.sample_rate // 10).square().mean(1).sqrt() > 0.01
        assert float(loud.float().mean()) > 0.5, "most tenths of a second have sound"
        assert 0.1 < item.signal.shape[1] / item.sample_rate / len(item.caption.split()) < 0.8
        assert re.fullmatch(r"[a-z' ]+", item.caption) and set(item.meta) == {"voice", "speed", "pitch"}


@pytest.mark.parametrize("name", EVERY)
def test_an_item_depends_on_seed_and_index_alone(name):
    """Both libraries keep a state from text to text, so the order of access would show."""
    source = open_spoken(name)
    forwards = [source[i] for i in range(4)]
    synthesizer._children[name].stop()
    again = open_spoken(name, count=50)
    for i in (3, 1, 0, 2):
        assert torch.equal(again[i].signal, forwards[i].signal) and again[i].meta == forwards[i].meta
    assert list(source.captions())[:4] == [item.caption for item in forwards]
    assert not torch.equal(open_spoken(name, seed=1)[0].signal[:, :2000], forwards[0].signal[:, :2000])
    with multiprocessing.get_context("fork").Pool(1) as pool:  # as the workers of a training
        (signal_,) = pool.map(_signal, [(name, 2)])
    assert np.array_equal(signal_, forwards[2].signal.numpy())


def _signal(arguments: tuple[str, int]) -> np.ndarray:
    name, i = arguments
    return open_spoken(name)[i].signal.numpy()


@pytest.mark.parametrize("name", EVERY)
def test_speed_pitch_and_rate_are_those_asked_for(name):
    def length(speed):
        return open_spoken(name, speeds=[speed, speed])[0].signal.shape[1]

    assert length(0.7) > 1.2 * length(1.0) > 1.4 * length(1.5)
    voice = synthesizer.VOICES[name][0]
    low, high = (_pitch(synthesizer.say(name, "ah", voice, 0.5, pitch)) for pitch in (0.7, 1.4))
    assert 1.6 < high / low < 2.5
    assert open_spoken(name, sample_rate=8000)[0].sample_rate == 8000
    native, slow = open_spoken(name)[0], open_spoken(name, sample_rate=8000)[0]
    assert slow.signal.shape[1] == pytest.approx(native.signal.shape[1] * 8000 / native.sample_rate, abs=2)


def _pitch(speech: synthesizer.Speech) -> float:
    """Return the fundamental frequency of the middle in Hz, by autocorrelation."""
    samples = np.frombuffer(speech.samples, "<i2").astype(np.float64)
    middle = samples[len(samples) // 2 - 1024 : len(samples) // 2 + 1024]
    power = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    shortest, longest = speech.rate // 400, speech.rate // 60
    return speech.rate / (shortest + int(np.argmax(power[shortest:longest])))


@espeak
def test_the_splits_share_no_sentence_and_no_voice():
    train, test = (open_spoken(split=split, count=400) for split in ("train", "test"))
    assert not set(train.captions()) & set(test.captions())
    assert len(set(train.captions())) > 380
    assert train.voices == [f"en-us+{variant}" for variant in ("m1", "m5", "m6", "f1", "f2", "f3", "f5")]
    assert test.voices == ["en-us+m2", "en-us+f4"]
    train, test = (open_spoken(split=split, voices=["*"]).voices for split in ("train", "test"))
    assert len(train) == 88 and len(test) == 16 and not set(train) & set(test)
    assert not {voice.partition("+")[2] for voice in train} & {voice.partition("+")[2] for voice in test}
    assert open_spoken(voices=["en+m?", "en+m1", "en-029+f1"]).voices[-2:] == ["en+m8", "en-029+f1"]
    with pytest.raises(ValueError, match=r"got 'en\+f4'; en\+f4 is of the other split"):
        open_spoken(voices=["en+f4"])


def test_slt_is_never_trained_on():
    with pytest.raises(ValueError, match="flite has no voice of the split train"):
        open_spoken(synthesizer.FLITE, split="train")


HOSTILE = [
    "-v whisper --path=/tmp hello",
    '<speak><audio src="/etc/passwd"/>hello</speak>',
    "[[h@loU]] $(touch x) `id`",
]


@pytest.mark.parametrize("text", HOSTILE)
@espeak
def test_options_markup_and_commands_are_only_words(tmp_path, text):
    (tmp_path / "texts.txt").write_text(f"{text}\0\x1b[31m\n\n  \n!!!\n", encoding="utf-8")
    source = open_spoken(path=str(tmp_path / "texts.txt"), split_texts=False)
    (tmp_path / "plain.txt").write_text(spoken(text + " 31m"), encoding="utf-8")
    plain = open_spoken(path=str(tmp_path / "plain.txt"), split_texts=False)
    assert set(source.captions()) == {words(text + " 31m")}
    assert torch.equal(source[0].signal, plain[0].signal)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "text", ["-v whisper", "<speak>hello</speak>", "[[h@loU]]", "größe 你好", "🎈", "\n", "e\u0301"]
)
def test_the_synthesizer_survives_any_text(name, text):
    voice = synthesizer.VOICES[name][0]
    assert synthesizer.say(name, text, voice) == synthesizer.say(name, text, voice)


@pytest.mark.parametrize("text", ["", "a\0b", "a" * (synthesizer.LONGEST + 1)])
def test_texts_are_bounded(text):
    with pytest.raises(ValueError, match="text must have 1 to 1000 characters and no NUL"):
        synthesizer.say(synthesizer.ESPEAK, text, "en")


def test_spoken_and_words():
    text = "  It’s 3.5 o'clock, e-mail <b>NOW</b>!? "
    assert spoken(text) == "it's 3 5 o'clock, e mail b now b"
    assert words(text) == "it's 3 5 o'clock e mail b now b"


@espeak
def test_texts_of_a_file_and_captions_of_a_tar(tmp_path):
    lines = [f"Number {n}." for n in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    files = {f"{n:02d}.flac": flac(np.zeros(100)) for n in range(40)}
    files |= {f"{n:02d}.txt": line.encode() for n, line in enumerate(lines)}
    tar = write_tar(tmp_path / "texts.tar", files)
    texts = {split: open_spoken(path=str(tmp_path / "texts.txt"), split=split, count=80) for split in ("train", "test")}
    said = {split: set(source.captions()) for split, source in texts.items()}
    assert said["train"] | said["test"] == {f"number {n}" for n in range(40)} and not said["train"] & said["test"]
    packed = open_spoken(path=tar, count=80)
    assert list(packed.captions()) == list(texts["train"].captions())
    assert torch.equal(packed[5].signal, texts["train"][5].signal)
    both = open_spoken(path=tar, count=40, split="test", split_texts=False)
    assert list(both.captions()) == [f"number {n}" for n in range(40)]


@espeak
def test_contents_name_the_synthesizer_and_the_texts(tmp_path):
    ((name, _),) = open_spoken().contents()
    assert re.fullmatch(r"espeak-ng \d+\.\d+.* [0-9a-f]{8}", name)
    seen = []
    for text in ("one", "two"):
        (tmp_path / "t.txt").write_text(text, encoding="utf-8")
        seen.append(list(open_spoken(path=str(tmp_path / "t.txt"), split_texts=False).contents()))
    assert seen[0][0] == seen[1][0] == (name, 0) and seen[0][1] != seen[1][1]


@espeak
def test_a_crash_costs_one_item(monkeypatch):
    source = open_spoken()
    right = source[1].signal
    child = synthesizer._children[synthesizer.ESPEAK]
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()
    assert torch.equal(source[1].signal, right), "a new process starts"
    with pytest.raises(synthesizer.Unspoken, match="no voice zz"):
        synthesizer.say(synthesizer.ESPEAK, "hello", "zz")
    monkeypatch.setattr(source, "voices", ["zz"])
    with pytest.raises(BrokenItem, match="spoken item 0: this espeak-ng has no voice zz"):
        source[0]


@espeak
def test_documents_over_spoken_digits(tmp_path):
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    (tmp_path / "digits.txt").write_text("\n".join(digits), encoding="utf-8")
    source = {"name": "spoken", "path": "digits.txt", "count": 20, "split_texts": False}
    kinds = [{"kind": "sum", "source": "said"}, {"kind": "caption", "source": "said"}]
    documents = Documents({"said": source}, kinds, folder=str(tmp_path))
    assert documents.library["said"].captions == digits * 2
    assert all(documents.draw(0, g) for g in range(10))


def test_errors_of_a_person_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "long.txt").write_text("a" * 1001, encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "none.txt").write_text("!\n?\n", encoding="utf-8")
    cases = [
        ({"synthesizer": "festival"}, "synthesizer must be one of espeak-ng, flite, got 'festival'"),
        ({"split": "all"}, "split must be one of train, test, got 'all'"),
        ({"voices": "en+m1"}, r"voices must be a list such as \[en\+m1\]"),
        ({"voices": ["en+../../x"]}, r"voices of the split train are .*got 'en\+\.\./\.\./x'"),
        ({"speeds": [2, 1]}, r"speeds must be two numbers from 0.5 to 2, the lower one first, got \[2, 1\]"),
        ({"pitches": 1.0}, "pitches must be two numbers"),
        ({"path": str(tmp_path / "long.txt")}, "a text must have at most 1000 characters, got 1001"),
        ({"path": str(tmp_path / "bad.txt")}, "must be a text file in UTF-8, a folder or a tar"),
        ({"path": str(tmp_path / "none.txt")}, "holds no text with words"),
    ]
    for kwargs, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            open_source("spoken", **kwargs)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="No such file"):
        open_source("spoken", path=str(tmp_path / "absent.txt"))
    monkeypatch.setattr(synthesizer, "find_spec", lambda name: None)
    monkeypatch.setattr(synthesizer, "find_library", lambda name: None)
    with pytest.raises(ValueError, match=r"needs espeakng-loader, .*: pip install 'tokenloom\[spoken\]'"):
        open_source("spoken")
    with pytest.raises(ValueError, match="apt-get install flite"):
        open_source("spoken", synthesizer="flite", split="test")
