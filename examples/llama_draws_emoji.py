"""A Llama that has never seen a picture learns to draw emoji: tokenloom's tokens inside a model of transformers.

    python examples/llama_draws_emoji.py                                  # emoji drawn with a font, no files needed
    python examples/llama_draws_emoji.py --data emoji64-train.tar         # captioned pictures of your own

A tokenizer is made from the captions, a small Llama gets random weights, the tokens of a shipped codec are merged into
both, the model reads `caption, picture` sequences, and `model.generate()` draws: captions that it was trained on, and
combinations of a thing and a colour that it was not. Needs `pip install 'tokenloom[hf]'`; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from tokenloom import codecs, data
from tokenloom.models.bridge import Bridge, Channel

SIDE = 64
FACES = {
    "grinning face": "😀", "winking face": "😉", "cool face": "😎", "neutral face": "😐",
    "angry face": "😠", "crying face": "😢", "surprised face": "😮", "devil": "😈", "angel": "😇",
}  # fmt: skip
SYMBOLS = {
    "sun": "☀", "cloud": "☁", "umbrella": "☂", "star": "★", "telephone": "☎", "shamrock": "☘", "peace sign": "☮",
    "yin yang": "☯", "spade": "♠", "club": "♣", "heart": "♥", "diamond": "♦", "note": "♫", "anchor": "⚓",
    "lightning": "⚡", "aeroplane": "✈", "envelope": "✉", "scissors": "✂", "flower": "✿", "chess knight": "♞",
    "snowflake": "❄", "cat": "🐱", "monkey": "🐵",
}  # fmt: skip
INKS = {
    "red": "#d63031", "orange": "#f18f23", "yellow": "#f5c400", "lime": "#7ed321", "green": "#2ea057",
    "teal": "#009e9e", "blue": "#2b63d9", "navy": "#1b2f78", "purple": "#8543c0", "pink": "#f27fb5",
    "brown": "#805434", "black": "#1c1c20",
}  # fmt: skip
CHANNEL = "picture"
CONTEXT = 512


# -- captioned pictures ---------------------------------------------------------------------------


def caption(thing: str, ink: str) -> str:
    return f"{'an' if ink[0] in 'aeiou' else 'a'} {ink} {thing}"


def emoji(thing: str, ink: str, shift: tuple[float, float] = (0, 0), scale: float = 1.0) -> Tensor:
    """One emoji on white, float32 (3, 64, 64) in [0, 1]: a glyph of DejaVu Sans, which comes with matplotlib."""
    glyph, side = FACES.get(thing) or SYMBOLS[thing], 4 * SIDE
    path = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    box = ImageFont.truetype(path, 200).getbbox(glyph)
    points = 200 * 0.86 * scale * side / max(box[2] - box[0], box[3] - box[1])
    font = ImageFont.truetype(path, points)
    left, top, right, bottom = font.getbbox(glyph)
    x, y = (side - left - right) / 2 + 4 * shift[0], (side - top - bottom) / 2 + 4 * shift[1]
    canvas = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(canvas)
    if thing in FACES:
        radius = 0.4 * points  # of the face's ring; a halo and horns stand out of it
        pale = tuple((255 + channel) // 2 for channel in ImageColor.getrgb(INKS[ink]))
        draw.circle((x + (left + right) / 2, y + bottom - radius), radius, fill=pale)
    draw.text((x, y), glyph, font=font, fill=INKS[ink], stroke_width=2, stroke_fill=INKS[ink])
    return torch.from_numpy(np.array(canvas.reduce(4))).permute(2, 0, 1).float() / 255


def drawn(seed: int, copies: int) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """Captioned emoji → those to train on, in copies, and those that show each thing in the one ink kept back."""
    rng, train, unseen = random.Random(seed), [], []
    for number, thing in enumerate([*FACES, *SYMBOLS]):
        for place, ink in enumerate(INKS):
            if (number + place) % len(INKS) == 0:
                unseen.append((caption(thing, ink), emoji(thing, ink)))
                continue
            for copy in range(copies):
                shift = (rng.uniform(-2, 2), rng.uniform(-2, 2)) if copy else (0, 0)
                picture = emoji(thing, ink, shift, rng.uniform(0.92, 1.0) if copy else 1.0)
                train.append((caption(thing, ink), picture))
    return train, unseen


def collected(path: str, most: int) -> list[tuple[str, Tensor]]:
    """The first captioned 64×64 pictures of a tar file of pictures and texts."""
    found = data.open_source("tar", path=path).items()
    pictures = [(item.caption, item.signal) for item in found if item.caption and item.signal.shape == (3, SIDE, SIDE)]
    if not pictures:
        raise SystemExit(f"{path} holds no captioned pictures of {SIDE}×{SIDE}")
    return pictures[:most]


# -- a host: somebody's tokenizer and model -------------------------------------------------------


def host_tokenizer(captions: list[str]):
    """A byte-level BPE tokenizer for the captions, such as a language model has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def llama(bridge: Bridge, seed: int):
    """A small Llama with random weights for all ids, the host's and the codec's.

    A trained model goes into `Bridge.merge` in place of None, which makes room in its embeddings and begins the new
    rows at the mean of the old ones; where all weights are random, random rows learn faster.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=bridge.size, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=bridge.tokenizer.bos_token_id, eos_token_id=bridge.tokenizer.eos_token_id,
        pad_token_id=bridge.tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


# -- training and drawing -------------------------------------------------------------------------


def train(bridge: Bridge, model, pictures: list[tuple[str, Tensor]], steps: int, batch: int, seed: int) -> None:
    """`caption, picture` sequences; the loss is that of the picture's tokens alone."""
    sequences = bridge([[text, picture] for text, picture in pictures], padding_side="right")
    ids, mask = sequences["input_ids"], sequences["attention_mask"]
    labels = ids.masked_fill((mask == 0) | (ids < bridge.first), -100)
    print(f"{len(ids)} sequences of up to {ids.shape[1]} tokens, {steps} steps of {batch}", flush=True)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    order = shuffled(len(ids), batch, seed)
    start = said = time.perf_counter()
    model.train()
    for step in range(1, steps + 1):
        rows = next(order)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids[rows], attention_mask=mask[rows], labels=labels[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        now = time.perf_counter()
        if now - said > 10 or step == steps:
            said, left = now, (now - start) / step * (steps - step)
            print(
                f"step {step:4} of {steps}  loss {loss.item() / math.log(2):.2f} bits a token  {left:.0f} s to go",
                flush=True,
            )
    model.eval()


def shuffled(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches of indices for ever, each epoch in another order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(batch)


@torch.no_grad()
def draw(bridge: Bridge, model, captions: list[str], temperature: float, seed: int) -> list[Tensor]:
    """One picture for each caption, with nothing but `generate()` and the bridge's logits processor."""
    torch.manual_seed(seed)
    inputs = bridge([[text] for text in captions])
    structure = bridge.logits_processor(only=CHANNEL, size=(SIDE, SIDE))
    ids = model.generate(
        **inputs, logits_processor=[structure], max_new_tokens=CONTEXT - inputs["input_ids"].shape[1],
        do_sample=True, temperature=temperature,
    )  # fmt: skip
    return [picture for (picture,) in bridge.decode(ids[:, inputs["input_ids"].shape[1] :])]


def nearest(pictures: list[Tensor], known: list[tuple[str, Tensor]]) -> list[str]:
    """The caption of the known picture with the smallest pixel error."""
    table = torch.stack([picture for _, picture in known]).flatten(1)
    return [known[int(torch.cdist(p.flatten()[None], table).argmin())][0] for p in pictures]


def sheet(captions: list[str], pictures: list[Tensor], unseen: int, path: Path) -> None:
    """A PNG of prompts and pictures, eight in a row; the last `unseen` have their captions in red."""
    columns, cell, line = 8, 2 * SIDE + 12, 28
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * cell, rows * (cell + line)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for number, (text, picture) in enumerate(zip(captions, pictures, strict=True)):
        x, y = number % columns * cell, number // columns * (cell + line)
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        canvas.paste(Image.fromarray(pixels).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS), (x + 6, y + 6))
        colour = "firebrick" if number >= len(pictures) - unseen else "black"
        pen.text((x + cell / 2, y + cell + line / 2 - 4), text[:24], fill=colour, font=font, anchor="mm")
    canvas.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="a tar file of captioned 64×64 pictures; default: emoji drawn with a font")
    parser.add_argument("--pictures", type=int, default=400, help="how many of the tar's pictures to learn")
    parser.add_argument("--copies", type=int, default=1, help="drawn pictures of each caption, each moved a little")
    parser.add_argument("--codec", default="pictures-fsq", help="a shipped codec of pictures, or a folder")
    parser.add_argument("--steps", type=int, default=850)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--draw", type=int, default=24, help="pictures to draw of each kind, trained and unseen")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("llama-emoji"))
    args = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(1)  # a model this small gains little from more, and loses much where other work holds a core

    known, unseen = (collected(args.data, args.pictures), []) if args.data else drawn(args.seed, args.copies)
    tokenizer = host_tokenizer([text for text, _ in known])
    bridge = Bridge.merge(tokenizer, None, [Channel(CHANNEL, codecs.load(args.codec))])
    model = llama(bridge, args.seed)
    print(f"{bridge.first} tokens of the host and {bridge.size - bridge.first} of {args.codec}; "
          f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")  # fmt: skip
    train(bridge, model, known, args.steps, args.batch, args.seed)

    choice = random.Random(args.seed)
    captions = sorted({text for text, _ in known})
    prompts = choice.sample(captions, min(args.draw, len(captions)))
    new = [text for text, _ in choice.sample(unseen, min(args.draw, len(unseen)))]
    pictures = draw(bridge, model, prompts + new, args.temperature, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    sheet(prompts + new, pictures, len(new), args.out / "drawn.png")
    bridge.save_pretrained(args.out)
    model.save_pretrained(args.out)

    found = nearest(pictures, known + unseen)
    for what, texts, near in (("trained", prompts, found[: len(prompts)]), ("unseen", new, found[len(prompts) :])):
        if texts:
            right = sum(a == b for a, b in zip(texts, near, strict=True))
            print(f"{what} captions: the nearest picture of all is the right one for {right} of {len(texts)}")
    whole = sum(picture.shape == (3, SIDE, SIDE) for picture in pictures)
    print(f"{whole} of {len(prompts + new)} pictures decode; "
          f"{args.out / 'drawn.png'}, {time.perf_counter() - start:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
