"""Program of the child process that computes metrics of native code; see native.py. It imports torch only for voices.

A request is a line of JSON and the samples of the waveforms (float32). A reply is a line of JSON.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

UTTERANCES = 50
"""Size of the tables of utterances in the C code of PESQ, which does not check it."""
SHORTEST = 0.4
"""Shortest time in seconds from one utterance to the next: PESQ joins utterances less than 0.2 s apart, and ignores
those shorter than 0.2 s."""
PAUSE = 0.25
"""Seconds of silence around a sound that is transcribed."""


def pesq(x: np.ndarray, y: np.ndarray, *, rate: int, mode: str) -> float:
    """Return PESQ. Raises ValueError if the signal has more utterances than the code has room for."""
    package = import_module("pesq")
    if len(x) > UTTERANCES * SHORTEST * rate and (count := _utterances(x.tobytes(), rate, mode)) >= UTTERANCES:
        raise ValueError(f"the code of PESQ has room for fewer than {UTTERANCES} utterances, got {count}")
    try:
        return float(package.pesq(rate, x, y, mode))
    except package.PesqError as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from error


def stoi(x: np.ndarray, y: np.ndarray, *, rate: int, extended: bool) -> float:
    """Return STOI. Raises RuntimeWarning if the signal has too little speech."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # with too few frames, the library warns and returns 1e-5
        return float(import_module("pystoi").stoi(x, y, rate, extended))


class _Signal(ctypes.Structure):
    """SIGNAL_INFO of pesq.h."""

    _fields_ = (
        ("names", ctypes.c_char * 640), ("samples", ctypes.c_long), ("swap", ctypes.c_long), ("filter", ctypes.c_long),
        ("data", ctypes.POINTER(ctypes.c_float)), ("vad", ctypes.c_void_p), ("log_vad", ctypes.c_void_p),
    )  # fmt: skip


@functools.lru_cache(maxsize=64)  # the same original comes again with each setting
def _utterances(samples: bytes, rate: int, mode: str) -> int:
    """Return the number of utterances that the code of PESQ finds in a waveform.

    The code writes its tables of utterances one after the other. With too many utterances, it overwrites the next
    table, and the result is a wrong number or a crash. This call gives it more memory and reads the count, which
    stands before the tables.
    """
    wave = np.frombuffer(samples, np.float32)
    wave = wave / np.abs(wave).max()
    signals = [_Signal(samples=len(wave), filter=1 + (mode == "wb")) for _ in range(2)]
    for info in signals:
        info.data = wave.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    library = ctypes.CDLL(import_module("pesq.cypesq").__file__)
    tables, flag, kind = (ctypes.c_long * 2**16)(), ctypes.c_long(), ctypes.c_char_p()
    if not hasattr(library, "pesq_measure"):  # on Windows, libraries export nothing by themselves
        raise ValueError(f"signals of more than {UTTERANCES * SHORTEST:.0f} s need a build of pesq with its functions")
    library.select_rate(ctypes.c_long(rate), ctypes.byref(flag), ctypes.byref(kind))
    library.pesq_measure(*map(ctypes.byref, signals), tables, ctypes.byref(flag), ctypes.byref(kind))
    return tables[0]


def visqol(x: np.ndarray, y: np.ndarray, *, rate: int, mode: str) -> float:
    """Return the MOS of ViSQOL; in the speech mode by the lattice, as the original program does."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(_visqol(mode).measure_from_arrays(x, y, rate).moslqo)


@functools.cache
def _visqol(mode: str) -> Any:
    api = import_module("visqol").VisqolApi()
    api.create(mode=mode, use_lattice_model=mode == "speech")
    return api


def dnsmos(x: np.ndarray, *, rate: int, score: str) -> float:
    """Return a score of DNSMOS."""
    return float(_dnsmos()(x, rate, False)[score])


@functools.cache
def _dnsmos() -> Any:
    package = import_module("speechmos.dnsmos")
    folder = Path(str(package.__file__)).with_name("dnsmos_models")
    paths = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    model = package.DNSMOS(*paths)
    model.onnx_sess, model.p808_onnx_sess = map(_session, paths)
    return model


def plcmos(x: np.ndarray, *, rate: int, seed: int) -> float:
    """Return PLCMOS. Its raters are drawn at random, here from a seed."""
    np.random.seed(seed)
    return float(_plcmos()(x)["plcmos"])


@functools.cache
def _plcmos() -> Any:
    model = import_module("speechmos.plcmos").PLCMOS()
    model.session = _session(model.model_path)
    return model


def _session(path: str) -> Any:
    """Open a network with one thread. The package opens it with one for each core, which wait for each other."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def speaker(x: np.ndarray, y: np.ndarray, *, rate: int) -> float:
    """Return the cosine of two speaker embeddings. Raises ValueError without a voice."""
    first, second = (_embedding(wave.tobytes()) for wave in (x, y))
    return float(first @ second)


@functools.lru_cache(maxsize=64)
def _embedding(samples: bytes) -> np.ndarray:
    package = import_module("resemblyzer")
    import_module("torch").set_num_threads(1)
    voice = package.preprocess_wav(np.frombuffer(samples, np.float32).copy())
    if not len(voice):
        raise ValueError("no voice is found in a sound")
    return _encoder().embed_utterance(voice)


@functools.cache
def _encoder() -> Any:
    return import_module("resemblyzer").VoiceEncoder("cpu", verbose=False)


def pitch(x: np.ndarray, *, rate: int, low: float, high: float, frame: int, hop: int) -> list[float]:
    """Return the fundamental frequency of each frame in Hz by pYIN, 0 where there is no voice."""
    package = import_module("librosa")
    f0, voiced, _ = package.pyin(x, fmin=low, fmax=high, sr=rate, frame_length=frame, hop_length=hop)
    return np.where(voiced, f0, 0.0).tolist()


def transcribe(x: np.ndarray, *, rate: int, sentences: list[str]) -> str:
    """Return the words that pocketsphinx hears: one of the sentences, or any US English if there are none.

    The sentences are lower case. Those with a word that its dictionary lacks can not be heard. A pause stands before
    and after the sound: without one, some sounds of a single word give none.
    """
    decoder = _decoder(tuple(sentences))
    decoder.reinit_feat()  # else it adapts to the sounds before, and what it hears depends on their order
    decoder.start_utt()
    samples = np.pad(np.clip(x, -1, 1), int(PAUSE * rate))
    decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return heard.hypstr if heard else ""


@functools.lru_cache(maxsize=2)
def _decoder(sentences: tuple[str, ...]) -> Any:
    package = import_module("pocketsphinx")
    if not sentences:
        return package.Decoder(loglevel="FATAL")
    decoder = package.Decoder(lm=None, loglevel="FATAL")
    known = [text for text in sentences if all(decoder.lookup_word(word) for word in text.split())]
    if not known:
        raise ValueError("no caption consists of words that pocketsphinx knows")
    grammar = f"#JSGF V1.0; grammar captions; public <caption> = {' | '.join(known)};"
    decoder.add_jsgf_string("captions", grammar)
    decoder.activate_search("captions")
    return decoder


FUNCTIONS = {
    "pesq": pesq, "stoi": stoi, "visqol": visqol, "dnsmos": dnsmos, "plcmos": plcmos, "pitch": pitch,
    "speaker": speaker, "transcribe": transcribe,
}  # fmt: skip


def _answer(request: dict[str, Any], data: BinaryIO) -> dict[str, Any]:
    waves = [np.frombuffer(data.read(4 * samples), np.float32) for samples in request["samples"]]
    try:
        return {"value": FUNCTIONS[request["function"]](*waves, **request["settings"])}
    except Exception as error:  # whatever the library raises is the reason of a missing value
        return {"error": type(error).__name__, "message": " ".join(str(error).split())}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to standard output
    while line := requests.readline():
        print(json.dumps(_answer(json.loads(line), requests)), file=replies, flush=True)


if __name__ == "__main__":
    main()
