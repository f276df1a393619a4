"""What every figure of a diffusion decoder needs: its codec, the real items, and their variants at each setting."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloom import models
from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes, Modality
from tokenloom.data import Item, Source
from tokenloom.data.sources.source import at_least
from tokenloom.metrics import distribution as kernel
from tokenloom.metrics.errors import Unmeasurable
from tokenloom.metrics.tokens import same_share
from tokenloom.models.diffusion import samplers

from .. import trial
from ..compare.entries import Draw
from ..metric import Series
from ..trial import RATE_UNITS
from . import controls, labels, realfake, realism
from . import verdicts as decoder_verdicts
from .controls import Strength
from .labels import Labelled
from .realism import PLAIN, Reading, diffusion

if TYPE_CHECKING:
    from .evaluate import Bar

PATCHES = 32
"""Patches of an item that are judged at most."""
BATCH, SAMPLES = 32, 2**19
"""Items, and pixels or samples, decoded at once."""
FITTED = 64
"""Training items that the controls are fitted on."""
TIMED, SIDE = 5, 64
JUDGED = 2000
"""What the training of a judge counts for on the progress bar, in items through the network once."""
NEEDS_TRAINING = "needs real items that the test data lacks: give training={name: tar, path: train.tar}"


@dataclass
class Original:
    """A real item as the codec takes it: where its patches are, and what is kept of it."""

    key: str
    caption: str
    signal: Tensor
    corners: Tensor
    reading: Reading


class Bench:
    """A decoder under test, the items it is tested on, and what is known of the real ones."""

    def __init__(self, decoder: str, settings: Sequence[Any] | None, steps: Sequence[int], seed: int) -> None:
        self.name = str(decoder)
        loaded = models.load(decoder)
        if not isinstance(loaded, models.DiffusionDecoder):
            raise ValueError(f"{decoder} is no diffusion decoder; those that ship: {', '.join(models.decoders())}")
        self.decoder, self.codec, self.seed = loaded, loaded.codec, at_least("seed", seed, 0)
        self.seen = realism.view(self.codec)
        self.settings = _settings(self.codec.settings, settings)
        self.steps = _steps(steps)
        self.test: list[Original] = []
        self.train: list[Original] = []
        self.labelled: Labelled | None = None
        self.absent: dict[str, str] = {}

    def describe(self) -> dict[str, Any]:
        dial, spec = self.codec.settings, self.codec.spec
        highest = dial.values[-1] if spec.ordered and len(dial) > 1 else None
        return {
            "decoder": self.name,
            "codec": self.codec.name,
            "modality": str(spec.modality),
            "weights": sum(p.numel() for p in self.decoder.flow.parameters()),
            "setting_name": dial.name,
            "settings": self.settings,
            "highest": highest if isinstance(highest, int) else None,
            "steps": self.steps,
            "usual": self._usual(),
            "rate_unit": RATE_UNITS[spec.modality],
            "space": self.seen.space,
            "sample_rate": spec.sample_rate,
        }

    def _usual(self) -> int:
        """The steps that claims are about: the decoder's own, else the most that take shortcuts."""
        few = [n for n in self.steps if n < realism.FLOW]
        return self.decoder.steps if self.decoder.steps in self.steps else (few or self.steps)[-1]

    def definitions(self) -> dict[str, str]:
        about = {"labels": self.labelled.about} if self.labelled else {}
        return {
            "variants": "all from the same codes; diffusion N: the decoder with N steps of its shortcut sampler, from "
            f"{realism.FLOW} steps on of Euler's method along its flow; rounded as in a file",
            "controls": controls.DEFINITION,
            "KID": kernel.DISTANCE + "; 95 % interval: bootstrap over items",
            **about,
            **self.seen.definitions,
            "real or decoded": realfake.DEFINITION,
            "codes back": "share of codes that come back from encoding the decoded signal again, mean over items",
            "seconds": f"median of {TIMED} after one to warm up, one item at a time, {torch.get_num_threads()} threads",
        }

    # -- the real items -------------------------------------------------------------------------

    def read(
        self, source: Source, training: Source | None, items: int | None, train_items: int, strict: bool, bar: Bar
    ) -> None:
        """Test items, training items, and the network of labels."""
        modality = self.codec.spec.modality
        if training is None:
            for what in ("controls", "real or decoded", "floor", f"KID in {labels.SPACE}"):
                self.absent[what] = NEEDS_TRAINING
        else:
            bar.tell("reading the training data")
            self.train = [self._original(item, i) for i, item in enumerate(self._drawn(training, train_items, strict))]
            try:
                captioned = self._drawn(training, labels.MOST, strict)
                share = bar.shares("learning the labels")
                self.labelled = labels.learned(captioned, self.codec.spec.sample_rate, progress=share)
            except Unmeasurable as reason:
                self.absent[f"KID in {labels.SPACE}"] = str(reason)
        bar.tell("reading the test data")
        self.test = [self._original(item, i) for i, item in enumerate(self._drawn(source, items, strict))]
        for name, some in (("data", self.test), ("training", self.train if training else None)):
            if some is not None and len(some) < 2:
                raise ValueError(f"{name} holds {len(some)} {modality} items, of which {self.name} needs 2 or more")
        for some in (self.test, self.train):
            for original in some:
                original.reading.features = self._features(original.signal)

    def _drawn(self, source: Source, count: int | None, strict: bool) -> Iterator[Item]:
        return iter(Draw(source, {self.codec.spec.modality}, count, self.seed, strict))

    def _original(self, item: Item, number: int) -> Original:
        x = realism.signal(item, self.codec)
        corners = realism.places(self.seen, x, PATCHES, self.seed * realism.ITEMS_APART + number)
        return Original(item.key, item.caption, x, corners, Reading(patches=realism.patches(self.seen, x, corners)))

    def _features(self, x: Tensor) -> dict[str, Tensor]:
        """Of every space that this signal has a place in."""
        spaces: dict[str, Callable[[Tensor], Tensor]] = {self.seen.space: self.seen.statistics}
        if self.labelled:
            spaces[labels.SPACE] = self.labelled.features
        found = {}
        for name, features in spaces.items():
            try:
                found[name] = features(x)
            except Unmeasurable:  # too small for it: left out of this space, which counts its items
                continue
        return found

    def labels_right(self) -> float | None:
        """How often the network of labels is right on the real test items."""
        if not self.labelled:
            return None
        return self.labelled.right([o.signal for o in self.test], [o.caption for o in self.test])

    @property
    def spaces(self) -> list[str]:
        return [*([labels.SPACE] if self.labelled else []), self.seen.space]

    def floor(self) -> dict[str, dict[str, Any]]:
        """KID of real training items against the real test items, in each space."""
        found = {}
        for space in self.spaces if self.train else ():
            try:
                distance = realism.distance(_column(self.test, space), _column(self.train, space), paired=False)
                found[space] = distance.describe()
            except Unmeasurable as reason:
                self.absent[f"floor in {space}"] = str(reason)
        return found

    # -- one setting ----------------------------------------------------------------------------

    def order(self) -> list[Any]:
        """The settings, those of the quarter claim first: an interrupted run should have them."""
        falling = self.settings[::-1]
        first = decoder_verdicts.nearest_quarter(falling, falling[0])
        return sorted(falling, key=lambda s: (s != falling[0], s != first))

    def work(self) -> int:
        """What all settings come to, in items through the network once."""
        variants = 1 + len(self.steps) + (len(controls.CONTROLS) if self.train else 0)
        passes = (len(self.test) + len(self.train)) * (sum(self.steps) + 1)
        return len(self.settings) * (passes + (variants * JUDGED if self.train else 0))

    def measure(self, setting: Any, bar: Bar) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The records of every variant at one setting, and the strengths of the controls."""
        where = f"{self.codec.settings.name} {setting}: " if setting is not None else ""
        strengths: dict[str, Strength] = {}
        if self.train:
            bar.tell(f"{where}fitting controls")
            some = [original.signal for original in self.train[:FITTED]]
            strengths = realism.fit_controls(self.codec, some, setting, self.seed)
        bar.tell(f"{where}decoding")
        costs: dict[str, Series] = {"tokens": Series(), "rate": Series()}
        taught = self._decoded(self.train, setting, strengths, bar) if self.train else {}
        tested = self._decoded(self.test, setting, strengths, bar, costs)
        shared = {key: series.summary()["mean"] for key, series in costs.items()}
        records, draws = [], {}
        for name, readings in tested.items():
            record, draws[name] = self._record(name, readings, tested[PLAIN])
            if self.train:
                bar.tell(f"{where}judging {name}")
                record["accuracy"] = self._judged(taught[name], readings)
                bar.advance(JUDGED)
            records.append({"setting": setting, **shared, **record})
        for record in records:
            decoder_verdicts.compare_draws(record, draws)
        described = [{"setting": setting, "control": name, **s.describe()} for name, s in strengths.items()]
        return records, described

    def _decoded(
        self, originals: list[Original], setting: Any, strengths: dict[str, Strength], bar: Bar,
        costs: dict[str, Series] | None = None,
    ) -> dict[str, list[Reading]]:  # fmt: skip
        """A reading of every variant of every item, in order; with `costs` (test items) all there is to read."""
        found: dict[str, list[Reading]] = {}
        for rows in batches([tuple(o.signal.shape) for o in originals]):
            some = [originals[i] for i in rows]
            codes = self.codec.encode(torch.stack([o.signal for o in some]), setting)
            made = realism.variants(self.decoder, codes, steps=self.steps, strengths=strengths, seed=self.seed,
                                    first=rows[0])  # fmt: skip
            for name, signals in made.items():
                again = None
                if costs is not None and name not in strengths:
                    again = self.codec.encode(signals, setting)
                readings = found.setdefault(name, [Reading()] * len(originals))
                for place, (i, x) in enumerate(zip(rows, signals, strict=True)):
                    readings[i] = self._reading(originals[i], x, whole=costs is not None)
                    readings[i].same = None if again is None else same_share(codes[place], again[place])
            if costs is not None:
                self._count(codes, costs)
            bar.advance(len(rows) * (sum(self.steps) + 1))
        return found

    def _count(self, codes: Codes, costs: dict[str, Series]) -> None:
        """Tokens and nominal rate of each item."""
        spec = self.codec.spec
        for i, (tokens, bits) in enumerate(zip(rate.tokens(spec, codes), rate.nominal(spec, codes), strict=True)):
            costs["tokens"].add(float(tokens))
            costs["rate"].add(trial.in_unit(float(bits), codes[i], self.codec))

    def _reading(self, original: Original, x: Tensor, whole: bool) -> Reading:
        patches = realism.patches(self.seen, x, original.corners)
        if not whole:
            return Reading(patches=patches)
        return Reading(self.seen.distortion(original.signal, x), self._features(x), patches)

    def _record(
        self, name: str, readings: list[Reading], plain: list[Reading]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Distortion, distances and codes of one variant; the bootstrap draws of each distance."""
        steps = next((n for n in self.steps if diffusion(n) == name), None)
        distances: dict[str, Any] = {}
        draws = {}
        for space in self.spaces:
            try:
                fake = [reading.features.get(space) for reading in readings]
                distance = realism.distance(_column(self.test, space), fake)
            except Unmeasurable as reason:
                self.absent[f"KID in {space}"] = str(reason)
                continue
            distances[space], draws[space] = distance.describe(), distance.draws
        same = [reading.same for reading in readings if reading.same is not None]
        record = {
            "variant": name,
            "steps": steps,
            "sampler": None if steps is None else realism.sampler(steps),
            "n": len(readings),
            "distortion": {
                key: summary(reading.distortion[key] for reading in readings) for key in self.seen.distortions
            },
            "against_plain": summary(
                a.distortion["psnr"] - b.distortion["psnr"] for a, b in zip(readings, plain, strict=True)
            ),
            "kid": distances,
            "accuracy": None,
            "same": summary(same) if same else None,
        }
        return record, draws

    def _judged(self, taught: list[Reading], tested: list[Reading]) -> dict[str, Any] | None:
        real = [[o.reading.patches for o in some] for some in (self.train, self.test)]
        try:
            told = realfake.accuracy(
                real[0], [r.patches for r in taught], real[1], [r.patches for r in tested], self.seed
            )
        except Unmeasurable as reason:
            self.absent["real or decoded"] = str(reason)
            return None
        return asdict(told)

    # -- speed ----------------------------------------------------------------------------------

    def seconds(self) -> list[dict[str, Any]]:
        """Seconds of one item with each number of steps up to the shortcut's, at the highest setting."""
        signals = {"first item": self.test[0].signal}
        if self.codec.spec.modality is Modality.IMAGE:
            signals[f"{SIDE}x{SIDE}"] = _square(self.test[0].signal)
        found = []
        for name, x in signals.items():
            codes = self.codec.encode(x[None], self.settings[-1])
            size = "x".join(map(str, x.shape[1:]))
            plain = _timed(lambda codes=codes: self.codec.decode(codes))
            taken = {n: _timed(lambda n=n, codes=codes: self.decoder.decode(codes, steps=n)) for n in self.steps
                     if n < realism.FLOW}  # fmt: skip
            found.append({"of": name, "size": size, "plain": plain, "steps": {str(n): s for n, s in taken.items()}})
        return found


# -- what a person may ask for ---------------------------------------------------------------------


def _settings(dial: Any, wanted: Sequence[Any] | None) -> list[Any]:
    """The settings to measure, lowest rate first."""
    if wanted is None:
        return list(dial.sweep)
    wanted = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    for value in wanted:
        if value not in dial:
            raise ValueError(f"settings: {value!r} is none of {dial.describe()}")
    if not wanted:
        raise ValueError(f"settings is empty; give some of {dial.describe()}, or null for all of the sweep")
    return [value for value in dial.values if value in wanted]


def _steps(wanted: Sequence[int] | int) -> list[int]:
    wanted = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    for n in wanted:
        samplers.times(n)
    if not wanted:
        raise ValueError("steps is empty; give numbers of steps, such as [1,2,4,50]")
    return sorted(set(wanted))


def batches(shapes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Numbers of items of one shape, in runs of at most BATCH items and SAMPLES samples."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        alike.setdefault(shape, []).append(i)
    for shape, rows in alike.items():
        most = max(1, min(BATCH, SAMPLES // torch.Size(shape[1:]).numel()))
        for start in range(0, len(rows), most):
            yield rows[start : start + most]


def summary(values: Any) -> dict[str, Any]:
    """A `Series` of these; differences between infinities have no value and count as failed."""
    series = Series()
    for value in values:
        series.add(value)
    return series.summary()


def _column(originals: list[Original], space: str) -> list[Tensor | None]:
    return [original.reading.features.get(space) for original in originals]


def _square(x: Tensor) -> Tensor:
    """The top left SIDE by SIDE pixels, edges repeated where there are fewer."""
    x = x[:, :SIDE, :SIDE]
    return F.pad(x[None], (0, SIDE - x.shape[2], 0, SIDE - x.shape[1]), mode="replicate")[0]


def _timed(decode: Callable[[], Any]) -> float:
    taken = []
    for _ in range(TIMED + 1):
        start = time.perf_counter()
        decode()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])
