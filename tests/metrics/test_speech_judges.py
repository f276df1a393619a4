"""Judges of speech: each gives what its package gives when it is called alone, and fails with a reason."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenloom import codecs
from tokenloom.eval import protocols
from tokenloom.metrics import audio
from tokenloom.metrics.errors import Unmeasurable
from tokenloom.metrics.speech import opinions, pairs, recognition, recognizers, voice
from tokenloom.metrics.speech.recognizers import CLOSED, OPEN, Recognizer

RATE = 16000
PACK = Path(__file__).parents[3] / "shared" / "data" / "spoken_digits-test.tar"


def metric(protocol: str, name: str):
    return next(m for m in protocols.protocol(protocol).metrics if m.name == name)


def value(name: str, x: torch.Tensor, y: torch.Tensor, protocol: str = "speech", **more) -> float:
    found = metric(protocol, name)
    return found.function(x, y, sample_rate=RATE, **{**found.settings, **more})


def sung(pitch: float = 120.0, seconds: float = 1.2, seed: int = 0) -> torch.Tensor:
    """Return harmonics with two formants, in syllables, float32 (1, samples)."""
    t = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    wave = torch.zeros_like(t)
    for k in range(1, int(4000 / pitch)):
        f = k * pitch
        wave += (
            math.sin(k) * torch.sin(2 * math.pi * f * t + k) / (1 + ((f - 700) / 200) ** 2 + ((f - 1200) / 300) ** 2)
        )
    wave *= (0.6 + 0.4 * torch.sin(2 * math.pi * 3 * t)) * (torch.sin(2 * math.pi * 0.9 * t) > -0.8)
    noise = 0.002 * torch.randn(len(t), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (0.4 * wave / wave.abs().max() + noise).float()[None]


@pytest.fixture(scope="module")
def items() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Five sounds, each through Opus at another rate."""
    opus, found = codecs.build("audio/opus", sample_rate=RATE, channels=1), []
    for seed, (pitch, kbps) in enumerate(zip((95.0, 120.0, 160.0, 210.0, 260.0), (6, 9, 14, 24, 48), strict=True)):
        x = sung(pitch, seed=seed)
        found.append((x, opus.decode(opus.encode(x[None], kbps))[0]))
    return found


# -- parity with the packages ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["speech", "audio"])
def test_visqol_is_that_of_the_package(items, mode):
    package = pytest.importorskip("visqol")
    pytest.importorskip("ai_edge_litert")
    api = package.VisqolApi()
    api.create(mode=mode)
    rate = {"speech": RATE, "audio": 48000}[mode]
    for x, y in items:
        signals = [pairs.mono(wave, RATE, rate).double().numpy() for wave in (x, y)]
        wanted = api.measure_from_arrays(*signals, rate).moslqo
        assert value("visqol", x, y, {"speech": "speech", "audio": "music"}[mode]) == pytest.approx(wanted, abs=1e-4)
    assert value("visqol", x, x) > 4.5 > value("visqol", *items[0])


def test_dnsmos_is_that_of_the_package(items):
    package = pytest.importorskip("speechmos.dnsmos")
    for x, y in items:
        assert value("dnsmos", x, y) == pytest.approx(package.run(y[0].numpy(), RATE)["ovrl_mos"], abs=1e-4)
    assert value("dnsmos", torch.zeros_like(x), y) == value("dnsmos", x, y), "the original is not used"


def test_plcmos_is_that_of_the_package(items):
    package = pytest.importorskip("speechmos.plcmos")
    for x, y in items:
        np.random.seed(0)
        wanted = package.run(y[0].numpy(), RATE)["plcmos"]
        assert value("plcmos", x, y) == value("plcmos", x, y) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.skipif(voice.speaker_missing() is not None, reason="resemblyzer is not installed")
def test_speaker_similarity_is_that_of_the_package(items):
    package = pytest.importorskip("resemblyzer")
    encoder = package.VoiceEncoder("cpu", verbose=False)
    for x, y in items:
        first, second = (encoder.embed_utterance(package.preprocess_wav(wave[0].numpy().copy())) for wave in (x, y))
        assert value("speaker", x, y) == pytest.approx(float(first @ second), abs=1e-4)
    assert value("speaker", x, x) == pytest.approx(1, abs=1e-5)


def test_pitch_errors_are_those_of_the_tracks_of_the_package(items):
    package = pytest.importorskip("librosa")
    for x, y in items:
        (f, fv, _), (g, gv, _) = (
            package.pyin(wave[0].numpy(), fmin=60, fmax=500, sr=RATE, frame_length=1024, hop_length=160)
            for wave in (x, y)
        )
        both = fv & gv
        cents = 1200 * np.log2(g[both] / f[both])
        fine = np.abs(g[both] / f[both] - 1) <= 0.2
        assert value("f0", x, y) == pytest.approx(np.sqrt(np.mean(cents[fine] ** 2)), abs=1e-4)
        assert value("f0_gross", x, y) == pytest.approx(np.mean(~fine), abs=1e-9)
        assert value("voicing", x, y) == pytest.approx(np.mean(fv != gv), abs=1e-9)


def test_pitch_errors_have_the_values_of_their_definitions():
    pytest.importorskip("librosa")
    low, high, octave = sung(120.0), sung(120.0 * 2 ** (1 / 12)), sung(240.0)
    assert value("f0", low, high) == pytest.approx(100, abs=8), "a semitone"
    assert value("f0_gross", low, octave) > 0.9 and value("f0_gross", low, low) == 0
    silent_half = low.clone()
    silent_half[:, : low.shape[1] // 2] = 0
    assert 0.3 < value("voicing", low, silent_half) < 0.6 and value("voicing", low, low) == 0


@pytest.mark.parametrize("name", [OPEN, CLOSED])
def test_what_is_heard_is_what_the_package_hears(items, name):
    package = pytest.importorskip("pocketsphinx")
    captions = ("five", "one two", "seven")
    for _, y in items:
        decoder = package.Decoder(loglevel="FATAL", **({"lm": None} if name == CLOSED else {}))  # a new one each time
        if name == CLOSED:
            decoder.add_jsgf_string("c", "#JSGF V1.0; grammar c; public <c> = five | one two | seven;")
            decoder.activate_search("c")
        decoder.start_utt()
        samples = np.pad(y[0].numpy(), RATE // 4)
        decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        heard = decoder.hyp().hypstr if decoder.hyp() else ""
        assert Recognizer(name, captions).hear(y, RATE) == heard


# -- definitions -----------------------------------------------------------------------------------


def test_log_spectral_distance_of_a_gain_is_the_gain():
    x = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    half = metric("speech", "lsd")
    got = audio.log_spectral_distance(x, x / 2, sample_rate=8000, **{**half.settings, "floor": 1e-9})
    assert got == pytest.approx(20 * math.log10(2), abs=1e-5)
    assert audio.log_spectral_distance(x, x, sample_rate=8000, **half.settings) == 0


class Says(Recognizer):
    """A recognizer that hears what its name says."""

    def hear(self, wave, sample_rate):
        return self.name


def test_error_rates_count_words_and_characters():
    x = torch.ones(1, 100)
    for said, heard, wer, cer in (
        ("Press 1, please!", "press one please", 0, 0),
        ("one two three four", "one too three", 2 / 4, 6 / 18),
        ("yes", "no no no", 3, 8 / 3),
        ("21 oh7 305", "twenty one oh seven three zero five", 0, 0),
    ):
        given = {"sample_rate": RATE, "caption": said, "recognizer": Says(heard)}
        assert recognition.word_error_rate(x, x, **given) == pytest.approx(wer)
        assert recognition.character_error_rate(x, x, **given) == pytest.approx(cer)
    with pytest.raises(Unmeasurable, match="no caption with words"):
        recognition.word_error_rate(x, x, sample_rate=RATE, caption="…", recognizer=Says("a"))


@pytest.mark.skipif(not PACK.is_file(), reason="../shared/data is absent")
def test_the_closed_recognizer_knows_most_digits():
    pytest.importorskip("pocketsphinx")
    from tokenloom import data
    from tokenloom.eval import judges

    source = data.open_source("tar", path=str(PACK))
    recognizer = judges.recognizer(CLOSED, ["speech"], source)
    assert len(recognizer.captions) == 10 and str(recognizer) == CLOSED
    items = [source[i] for i in range(0, len(source), 10)]
    heard = {item.key: recognizer.hear(item.signal, item.sample_rate) for item in items}
    assert sum(heard[item.key] == item.caption for item in items) > 0.6 * len(items)
    recognizers._heard.cache_clear()
    again = {item.key: recognizer.hear(item.signal, item.sample_rate) for item in reversed(items)}
    assert again == heard, "what is heard does not depend on the sounds before"


# -- recognizers -----------------------------------------------------------------------------------


def test_a_function_of_the_user_recognizes(tmp_path):
    file = tmp_path / "my_recognizer.py"
    file.write_text(
        "def length(samples, rate):\n    return f'{len(samples) // rate} {samples.dtype}'\n"
        "def broken(samples, rate):\n    raise KeyError('no model')\n"
    )
    x = torch.zeros(2, 8000)
    good, bad = Recognizer(f"{file}:length"), Recognizer(f"{file}:broken")
    assert good.hear(x, 4000) == "2 float32" and good.missing() is None
    assert str(good).startswith("my_recognizer.py:length (") and str(tmp_path) not in str(good)
    with pytest.raises(Unmeasurable, match="no model"):
        bad.hear(x, 4000)
    with pytest.raises(ValueError, match="must have a function other"):
        Recognizer(f"{file}:other").check()
    with pytest.raises(FileNotFoundError):
        Recognizer(f"{tmp_path}/none.py:length").check()


def test_too_many_captions_or_none_are_no_grammar():
    for captions in ((), tuple(map(str, range(2001)))):
        with pytest.raises(Unmeasurable, match="1 to 2,000 captions"):
            Recognizer(CLOSED, captions).hear(torch.zeros(1, 1600), RATE)


def test_silence_and_short_sounds_have_no_opinion():
    silent, short = torch.zeros(1, RATE), sung(seconds=0.3)
    for judge, more in ((opinions.dnsmos, {"score": "ovrl_mos"}), (opinions.plcmos, {"seed": 0})):
        with pytest.raises(Unmeasurable, match="silent"):
            judge(silent, silent, sample_rate=RATE, **more)
        with pytest.raises(Unmeasurable, match=r"shorter than 0\.4 s"):
            judge(short, short, sample_rate=RATE, **more)
    with pytest.raises(Unmeasurable, match="silent"):
        value("visqol", silent, silent)
