"""Lyra v2, Google's SoundStream for speech, by the TFLite graphs of its repository."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenloom import lazy

from .. import batches
from ..codec import Codec, build
from ..registry import register
from ..streams import FrameEncoder, StreamDecoder, StreamEncoder
from ..types import Codes, CodeSpec, Modality, Settings

litert = lazy.load("ai_edge_litert.interpreter", "lyra")

FRAME, QUANTIZERS, ENTRIES = 320, 46, 16
UNUSED = -1
"""Index of a quantizer that a frame does not use, in the graphs and in `Codes`."""
GRAPHS = {
    "soundstream_encoder": (1_779_200, "237da0b16226fb0a68d49551c81bebf614e42142af72764448359f68581e88f1"),
    "quantizer": (329_012, "841ee05989687d32d1f616a8ad1419fc7eda37599d3c05c7cf5a0d60ccf8ac5c"),
    "lyragan": (1_475_160, "50e7839cda4f30599a3a34cfaddcd9c98449b049eee884e1a74295780448ad06"),
}
"""Name of each published file without its suffix → length in bytes, SHA-256."""


@register("audio/lyra")
class Lyra(Codec):
    """Lyra v2: speech at 16 kHz, frames of 20 ms, 46 residual quantizers of 16 entries (SoundStream, arXiv 2107.03312).

    Setting: number of quantizers, .2 kbit/s each. The published ones are 16, 30 and 46: 3.2, 6.0 and 9.2 kbit/s. The
    graphs are those of Lyra's repository (lyra/model_coeffs, Apache-2.0), and LiteRT runs them, frame by frame. Nothing
    else is run: other bytes are refused. They are kept as parameters of type uint8, so that a saved copy holds them.
    Items are encoded and decoded one by one. Computes on the CPU only.
    """

    variants = ()
    license = "Apache-2.0"
    spec = CodeSpec(
        Modality.AUDIO, (ENTRIES,) * QUANTIZERS, (FRAME,), channels=1, sample_rate=16_000, ordered=True, causal=True
    )
    settings = Settings("quantizers", "", QUANTIZERS, (16, 23, 30, 38, QUANTIZERS), tuple(range(16, QUANTIZERS + 1)))

    def __init__(self) -> None:
        super().__init__()
        for name, (length, _) in GRAPHS.items():
            setattr(self, name, nn.Parameter(torch.zeros(length, dtype=torch.uint8), requires_grad=False))

    @classmethod
    def imported(cls, checkpoint: str) -> Codec:
        """Build the codec from the folder of Lyra's published weights, `lyra/model_coeffs` of its repository.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file differs from the published one.
        """
        codec, folder = build(cls.name), Path(checkpoint).expanduser()
        for name, (length, _) in GRAPHS.items():
            with (folder / f"{name}.tflite").open("rb") as file:
                data = file.read(length + 1)
            _verify(name, data)
            getattr(codec, name).data = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return codec

    @property
    def truncates(self) -> bool:
        return True

    def truncate(self, codes: Codes, setting: int) -> Codes:
        return Codes(codes.indices[:, :setting], codes.sizes)

    def working_memory(self, size: tuple[int, ...]) -> int:
        return 32 * size[0]

    def _encode(self, x: Tensor, setting: int) -> Codes:
        sizes = torch.tensor(x.shape[2:]).repeat(len(x), 1)
        x = F.pad(x, (0, -x.shape[-1] % FRAME))
        return Codes(torch.stack([_FrameEncoder(self, setting)(one) for one in x.cpu()]), sizes)

    def _decode(self, codes: Codes) -> Tensor:
        items = [_FrameDecoder(self)(one) for one in codes.indices.cpu()]
        return batches.crop(torch.stack(items), codes.sizes)

    @property
    def stream_obstacle(self) -> str | None:
        return None

    def _open_encoder(self, setting: int) -> StreamEncoder:
        return LyraEncoder(self, setting)

    def _open_decoder(self) -> StreamDecoder:
        return LyraDecoder(self)

    def _runner(self, name: str, signature: str | None = None) -> Any:
        """Return a function of a graph in its initial state.

        Each runner has an interpreter of its own: `reset_all_variables` does not reset the state of these graphs.
        """
        data = getattr(self, name).cpu().numpy().tobytes()
        _verify(name, data)
        interpreter = litert.Interpreter(model_content=data, num_threads=1)
        return interpreter.get_signature_runner(signature)


class _FrameEncoder:
    """The graphs that encode one item, with their state."""

    def __init__(self, codec: Lyra, setting: int) -> None:
        self.encoder, self.quantizer = codec._runner("soundstream_encoder"), codec._runner("quantizer", "encode")
        self.setting = setting

    def __call__(self, x: Tensor) -> Tensor:
        """Map the next whole frames of samples (1, samples) to indices (quantizers, frames)."""
        found = []
        for frame in x.numpy().reshape(-1, 1, FRAME):
            latents = self.encoder(input_audio=frame)["output_0"]
            index = self.quantizer(input_frames=latents, num_quantizers=np.int32(self.setting))["output_0"]
            found.append(index[: self.setting, 0, 0])
        return torch.from_numpy(np.stack(found, 1)).long()


class _FrameDecoder:
    """The graphs that decode one item, with their state."""

    def __init__(self, codec: Lyra) -> None:
        self.quantizer, self.decoder = codec._runner("quantizer", "decode"), codec._runner("lyragan")

    def __call__(self, indices: Tensor) -> Tensor:
        """Map the indices of the next frames (quantizers, frames) to samples (1, samples)."""
        full = F.pad(indices, (0, 0, 0, QUANTIZERS - len(indices)), value=UNUSED).to(torch.int32).numpy()
        sound = []
        for frame in full.T:
            latents = self.quantizer(encoding_indices=frame.reshape(QUANTIZERS, 1, 1))["output_0"]
            sound.append(self.decoder(input_audio=latents)["output_0"])
        return torch.from_numpy(np.concatenate(sound, 1)).clamp(-1, 1)


class LyraEncoder(FrameEncoder):
    """Encoder of a stream."""

    codec: Lyra
    latency, delay = 0, FRAME

    def __init__(self, codec: Lyra, setting: int) -> None:
        super().__init__(codec, setting, setting)
        self._items: list[_FrameEncoder] = []

    def _indices(self, x: Tensor | None, last: bool) -> Tensor | None:
        if x is None:
            return None
        self._items = self._items or [_FrameEncoder(self.codec, self.setting) for _ in range(len(x))]
        x = F.pad(x, (0, -x.shape[-1] % FRAME)).cpu()
        return torch.stack([item(one) for item, one in zip(self._items, x, strict=True)])


class LyraDecoder(StreamDecoder):
    """Decoder of a stream."""

    codec: Lyra
    latency = 0

    def __init__(self, codec: Lyra) -> None:
        super().__init__(codec)
        self._items: list[_FrameDecoder] = []

    def _push(self, codes: Codes) -> Tensor:
        if not codes.indices.shape[2]:
            return self._none()
        self._items = self._items or [_FrameDecoder(self.codec) for _ in range(len(codes))]
        sound = [item(one) for item, one in zip(self._items, codes.indices.cpu(), strict=True)]
        return torch.stack(sound)[..., : int(codes.sizes[0])]

    def _close(self) -> Tensor:
        return self._none()


def _verify(name: str, data: bytes) -> None:
    """Raise ValueError for bytes that are not the published graph. LiteRT would run any graph."""
    if hashlib.sha256(data).hexdigest() != GRAPHS[name][1]:
        raise ValueError(
            f"audio/lyra needs the published {name}.tflite of Lyra v2 (lyra/model_coeffs of its repository): "
            "codecs.build('audio/lyra', checkpoint=FOLDER)"
        )
