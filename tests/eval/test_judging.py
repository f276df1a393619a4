"""Slow judges in a comparison: what they need of an item, their seconds, values of the originals, recognizers."""

import io
import json
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from tokenloom.codecs import Modality
from tokenloom.data import Item, Source
from tokenloom.eval import judges, protocols
from tokenloom.eval.compare import compare, run
from tokenloom.eval.compare.processes import pool
from tokenloom.eval.compare.report import terminal
from tokenloom.eval.compare.results import JSON, Results
from tokenloom.metrics.speech.recognizers import CLOSED, OPEN

HEAR = """
def loudness(samples, rate):
    assert rate == 16000
    return "loud" if abs(samples).max() > 0.3 else "soft"
"""


class Bursts(Source):
    """Noise bursts at 8 kHz. `loudness` hears the captions of the first two; the last one has none."""

    name, modality = "bursts", Modality.AUDIO

    def __len__(self):
        return 3

    def __getitem__(self, i):
        noise = torch.randn(1, 6000, generator=torch.Generator().manual_seed(i)).clamp(-3, 3) / 3
        return Item(f"b{i}", Modality.AUDIO, noise * (0.9, 0.1, 0.9)[i], 8000, ("loud", "very soft", "")[i])


@pytest.fixture
def ears(tmp_path):
    file = tmp_path / "ears.py"
    file.write_text(HEAR)
    return f"{file}:loudness"


@pytest.fixture
def few(monkeypatch):
    """Leave out the metrics of the protocol `speech` that are not quick, as if their packages were missing."""
    known, kept = protocols.PROTOCOLS["speech"], ("mel", "wer", "cer")
    metrics = tuple(m if m.name in kept else replace(m, missing=lambda: "slow") for m in known.metrics)
    monkeypatch.setitem(protocols.PROTOCOLS, "speech", replace(known, metrics=metrics))


def test_error_rates_stand_beside_those_of_the_originals(tmp_path, ears, few):
    results = compare(["audio/flac"], Bursts(), tmp_path / "out", protocols=["speech"], recognizer=ears)
    (record,) = results.records
    assert (record.metrics["wer"].mean, record.metrics["wer"].n) == (0.25, 2), "0 of 1 and 1 of 2 words"
    assert record.metrics["wer"].reasons == {"the item has no caption with words": 1}
    assert record.originals["wer"] == record.metrics["wer"] and set(record.originals) == {"wer", "cer"}
    assert record.metric_seconds.keys() == {"mel", "wer", "cer"} and all(s > 0 for s in record.metric_seconds.values())
    said = results.protocols["speech"].metrics["wer"].settings["recognizer"]
    assert said.startswith("ears.py:loudness (") and str(tmp_path) not in said
    page = results.report.read_text("utf-8")
    assert "the originals" in page and "Seconds of the metrics of sounds" in page
    assert Results.read(results.folder).records == results.records
    header, row, *_ = (results.folder / "results.csv").read_text("utf-8").splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["wer_of_originals"] == "0.25"
    console = Console(record=True, width=400, file=io.StringIO())
    terminal.show(results, console)
    shown = console.export_text()
    assert re.search(r"the originals .* 0\.250 ±", shown) and shown.count("protocol speech") == 1


def test_many_metrics_take_several_tables(tmp_path, ears, few, monkeypatch):
    results = compare(["audio/flac"], Bursts(), tmp_path / "out", protocols=["speech"], recognizer=ears)
    monkeypatch.setattr(terminal, "MOST", 2)  # of mel distance, WER and CER
    console = Console(record=True, width=120, file=io.StringIO())
    terminal.show(results, console)
    first, second = (part for part in console.export_text().split("protocol speech")[1:])
    assert "Mel distance" in first and "nominal" in first and "encode s" in first and "CER" not in first
    assert "CER" in second and "coded" in second and "nominal" not in second and "encode s" not in second


def test_results_of_before_are_still_read(tmp_path, ears, few):
    results = compare(["audio/flac"], Bursts(), tmp_path / "out", protocols=["speech"], recognizer=ears)
    path = results.folder / JSON
    plain = json.loads(path.read_text("utf-8"))
    for record in plain["records"]:
        del record["metric_seconds"], record["originals"]
    path.write_text(json.dumps(plain), "utf-8")
    old = Results.read(results.folder)
    assert old.records[0].metric_seconds == {} and old.records[0].metrics == results.records[0].metrics


def test_other_processes_hear_the_same(tmp_path, ears, few, monkeypatch):
    monkeypatch.setattr(pool, "WORTH", 0.0)
    monkeypatch.setattr(run, "cores", lambda: 2)
    results = compare(["audio/opus"], Bursts(), tmp_path / "two", protocols=["speech"], recognizer=ears)
    assert results.environment.processes == 2
    assert results.records[-1].metrics["wer"].mean == 0.25


def test_a_missing_recognizer_is_absent_and_a_wrong_one_is_refused(tmp_path, few, monkeypatch):
    monkeypatch.setattr(judges.Recognizer, "missing", lambda self: f"no {self.name}")
    results = compare(["audio/flac"], Bursts(), tmp_path / "out", protocols=["speech"], recognizer=OPEN)
    assert results.absent["wer"] == "no pocketsphinx" and not results.records[0].originals
    with pytest.raises(ValueError, match="must have a function"):
        (tmp_path / "empty.py").write_text("")
        compare(["audio/flac"], Bursts(), tmp_path, protocols=["speech"], recognizer=f"{tmp_path / 'empty.py'}:hear")
    with pytest.raises(ValueError, match="recognizer must be a name"):
        compare(["audio/flac"], Bursts(), tmp_path, protocols=["speech"], recognizer=3)


def test_captions_are_read_only_for_protocols_that_listen():
    class Unread(Bursts):
        def captions(self):
            raise AssertionError

    assert judges.recognizer(CLOSED, ["rgb8", "waveform"], Unread()).captions == ()
    assert judges.recognizer(CLOSED, ["speech"], Bursts()).captions == ("loud", "very soft")


def test_default_protocols_have_no_judge():
    slow = {m.name for m in (*judges.IMAGE, *judges.SPEECH, *judges.MUSIC)}
    for name in protocols.DEFAULT:
        assert not slow & {m.name for m in protocols.protocol(name).metrics}
    names = [m.name for m in protocols.protocol("music").metrics]
    assert {"visqol", "lsd", "mel"} <= set(names) and not {"stoi", "pesq_nb", "wer"} & set(names)
