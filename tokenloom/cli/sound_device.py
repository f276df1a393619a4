"""The microphone and the loudspeaker, through sounddevice."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tokenloom import lazy

if TYPE_CHECKING:
    from numpy import ndarray

np = lazy.load("numpy")
torch = lazy.load("torch")
sounddevice = lazy.load("sounddevice", "mic")


def require(option: str) -> None:
    """Raise ValueError if sounddevice, or the library that it needs, is missing."""
    try:
        _ = sounddevice.InputStream
    except OSError as error:  # the wheel for Linux does not contain PortAudio
        raise ValueError(f"{option} needs the library PortAudio (Debian: libportaudio2): {error}") from error


def record(sample_rate: int, channels: int) -> Any:
    """Record until Enter is pressed. Return float32 (channels, samples) in [-1, 1].

    Raises:
        ValueError: If there is no microphone, or nothing was recorded.
    """
    pieces: list[ndarray] = []
    options = {"samplerate": sample_rate, "channels": channels, "dtype": "float32"}

    def keep(piece: ndarray, *_: Any) -> None:
        pieces.append(piece.copy())

    try:
        with sounddevice.InputStream(callback=keep, **options), suppress(EOFError):
            input("recording; press Enter to end ")
    except sounddevice.PortAudioError as error:
        raise ValueError(f"the microphone cannot be opened: {error}") from error
    if not pieces:
        raise ValueError("the recording must have at least one sample, got none")
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(pieces).T)).clamp(-1, 1)


def speaker(sample_rate: int, channels: int) -> Any:
    """Return an open stream to the loudspeaker, a context manager whose `write` takes (samples, channels).

    Raises:
        ValueError: If there is no loudspeaker.
    """
    try:
        return sounddevice.OutputStream(samplerate=sample_rate, channels=channels, dtype="float32")
    except sounddevice.PortAudioError as error:
        raise ValueError(f"the loudspeaker cannot be opened: {error}") from error
