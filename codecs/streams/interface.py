"""The interface of streams, and the checks of what they get."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from tokenloom import precision

from .. import validate
from ..types import CodecInterface, Codes, Target


class _Stream(ABC):
    """State that encoders and decoders share."""

    def __init__(self, codec: CodecInterface) -> None:
        self.codec = codec
        self.batch: int | None = None
        self.closed = False

    def _begin(self, batch: int) -> None:
        """Raise ValueError unless the stream is open and gets the batch size of its first piece."""
        if self.closed:
            raise ValueError(f"a stream of {self.codec.name} takes nothing after close(); open another one")
        if self.batch not in (None, batch):
            raise ValueError(f"every piece of this stream must have {self.batch} items, got {batch}")
        self.batch = batch

    def _end(self) -> None:
        if self.closed:
            raise ValueError(f"this stream of {self.codec.name} is closed already")
        self.closed = True


class StreamEncoder(_Stream):
    """Encoder of a stream of sound: `push` the samples as they come, then `close`.

    However a sound is cut, the pieces of codes joined along the frames are the codes of the whole. Their sizes add up
    to its size.
    """

    def __init__(self, codec: CodecInterface, setting: Any) -> None:
        super().__init__(codec)
        self.setting = setting

    @property
    @abstractmethod
    def latency(self) -> int:
        """Samples after the end of a frame that its codes depend on."""

    @property
    @abstractmethod
    def delay(self) -> int:
        """Samples until the first frame is complete."""

    @torch.no_grad()
    @precision.float32()
    def push(self, x: Tensor) -> Codes:
        """Take the next samples, and return the codes of the frames that they complete.

        Args:
            x: float32 (batch, channels, samples) in [-1, 1] at the codec's rate, with at least one sample.

        Returns:
            Codes of no frame or more. Each frame counts its stride in `sizes`.

        Raises:
            ValueError: If `x` is invalid, has another batch size than before, or comes after `close`.
        """
        validate.signal(x, self.codec)
        self._begin(len(x))
        return self._push(x.to(self.codec.device)).made_by(self.codec)

    @torch.no_grad()
    @precision.float32()
    def close(self) -> Codes:
        """Return the codes of the last frames, with the samples that no other piece counted in `sizes`.

        Raises:
            ValueError: If the stream is closed already or had no sample.
        """
        self._end()
        if self.batch is None:
            raise ValueError(f"a stream of {self.codec.name} must have at least 1 sample, got none before close()")
        return self._close().made_by(self.codec)

    @abstractmethod
    def _push(self, x: Tensor) -> Codes: ...

    @abstractmethod
    def _close(self) -> Codes: ...


class StreamDecoder(_Stream):
    """Decoder of a stream of codes: `push` the codes as they come, then `close`.

    The pieces of sound, joined, are the sound of all codes within 1e-6.
    """

    def __init__(self, codec: CodecInterface) -> None:
        super().__init__(codec)
        self._inside = False

    @property
    @abstractmethod
    def latency(self) -> int:
        """Frames after a frame that its samples depend on."""

    @torch.no_grad()
    @precision.float32()
    def push(self, codes: Codes) -> Tensor:
        """Take the next codes, and return the samples that they complete.

        Args:
            codes: Codes of this codec, of one size in the whole batch. Only the last piece may end within a frame.

        Returns:
            float32 (batch, channels, samples) in [-1, 1], of no sample or more.

        Raises:
            ValueError: If the codes are invalid, have another batch size than before, follow a piece that ended within
                a frame, or come after `close`.
        """
        if not (isinstance(codes, Codes) and codes.indices.ndim == 3 and not codes.indices.shape[2]):
            validate.codes(codes, self.codec)
        self._begin(len(codes))
        if codes.indices.shape[2]:
            self._check(codes)
        return self._push(codes.to(self.codec.device))

    def _check(self, codes: Codes) -> None:
        """Raise ValueError unless these codes, of one frame or more, can follow."""
        if self._inside:
            raise ValueError(
                f"a piece of codes of {self.codec.name} must follow whole frames; one ended within a frame"
            )
        sizes = codes.sizes.unique().tolist()
        if len(sizes) > 1:
            raise ValueError(f"a piece of codes must have one size in its whole batch, got {sizes}")
        self._inside = sizes[0] % self.codec.spec.stride[0] > 0

    @torch.no_grad()
    @precision.float32()
    def close(self) -> Tensor:
        """Return the last samples; none if the codec does not look ahead.

        Raises:
            ValueError: If the stream is closed already or had no codes.
        """
        self._end()
        if self.batch is None:
            raise ValueError(f"a stream of {self.codec.name} must have at least 1 frame, got none before close()")
        return self._close()

    def _none(self) -> Tensor:
        """Return a sound of no samples."""
        return torch.zeros(self.batch or 1, self.codec.spec.channels, 0, device=self.codec.device)

    @abstractmethod
    def _push(self, codes: Codes) -> Tensor: ...

    @abstractmethod
    def _close(self) -> Tensor: ...


class Streamable(CodecInterface):
    """The part of a codec that opens streams."""

    @property
    def stream_obstacle(self) -> str | None:
        """Reason why the codec cannot be streamed; None if it can."""
        return "it codes a signal as a whole"

    @torch.no_grad()
    @precision.float32()
    def stream_encoder(self, setting: Any = None) -> StreamEncoder:
        """Open an encoder of a stream.

        Args:
            setting: A value of `settings`, or None for the default. A `Target` needs the whole signal.

        Raises:
            ValueError: If the codec cannot be streamed, or has no such setting.
        """
        self._require_stream()
        if isinstance(setting, Target):
            raise ValueError(
                f"{setting} needs the whole signal; a stream must have a setting, {self.settings.describe()}"
            )
        return self._open_encoder(validate.setting(setting, self))

    @torch.no_grad()
    @precision.float32()
    def stream_decoder(self, setting: Any = None) -> StreamDecoder:
        """Open a decoder of a stream. Codes imply their setting, so `setting` is checked and has no other effect.

        Raises:
            ValueError: If the codec cannot be streamed, or has no such setting.
        """
        self._require_stream()
        validate.setting(setting, self)
        return self._open_decoder()

    def _require_stream(self) -> None:
        if obstacle := self.stream_obstacle:
            raise ValueError(f"{self.name} cannot be streamed: {obstacle}")
        if isinstance(self, precision.Float32Module):
            self.require_float32(self.name)

    def _open_encoder(self, setting: Any) -> StreamEncoder:
        raise NotImplementedError

    def _open_decoder(self) -> StreamDecoder:
        raise NotImplementedError
