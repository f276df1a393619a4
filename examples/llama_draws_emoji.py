"""Train a small Llama of transformers to draw emoji with tokenloom's tokens.

    python examples/llama_draws_emoji.py                                  # emoji drawn with a font, no files needed
    python examples/llama_draws_emoji.py --data emoji64-train.tar         # captioned images of your own

The script trains a tokenizer on the captions and merges the tokens of a shipped codec into it. A Llama with random
weights then trains on sequences of a caption and an image. At the end, `model.generate()` draws images for captions of
the training data and for held-out combinations of thing and color. The script needs `pip install 'tokenloom[hf]'` and
downloads nothing.
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
COLORS = {
    "red": "#d63031", "orange": "#f18f23", "yellow": "#f5c400", "lime": "#7ed321", "green": "#2ea057",
    "teal": "#009e9e", "blue": "#2b63d9", "navy": "#1b2f78", "purple": "#8543c0", "pink": "#f27fb5",
    "brown": "#805434", "black": "#1c1c20",
}  # fmt: skip
CHANNEL = "picture"
CONTEXT = 512


# -- captioned pictures ---------------------------------------------------------------------------


def caption(thing: str, color: str) -> str:
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {thing}"


def emoji(thing: str, color: str, shift: tuple[float, float] = (0, 0), scale: float = 1.0) -> Tensor:
    """Return an emoji on white, float32 (3, 64, 64) in [0, 1]: a glyph of DejaVu Sans, which comes with matplotlib."""
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
        radius = 0.4 * points  # of the face itself, without halo and horns
        pale = tuple((255 + channel) // 2 for channel in ImageColor.getrgb(COLORS[color]))
        draw.circle((x + (left + right) / 2, y + bottom - radius), radius, fill=pale)
    draw.text((x, y), glyph, font=font, fill=COLORS[color], stroke_width=2, stroke_fill=COLORS[color])
    return torch.from_numpy(np.array(canvas.reduce(4))).permute(2, 0, 1).float() / 255


def font_emoji(seed: int, copies: int) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """Return captioned emoji to train on, `copies` of each, and held-out emoji: each thing in one color."""
    rng, train, unseen = random.Random(seed), [], []
    for number, thing in enumerate([*FACES, *SYMBOLS]):
        for place, color in enumerate(COLORS):
            if (number + place) % len(COLORS) == 0:
                unseen.append((caption(thing, color), emoji(thing, color)))
                continue
            for copy in range(copies):
                shift = (rng.uniform(-2, 2), rng.uniform(-2, 2)) if copy else (0, 0)
                picture = emoji(thing, color, shift, rng.uniform(0.92, 1.0) if copy else 1.0)
                train.append((caption(thing, color), picture))
    return train, unseen


def tar_pictures(path: str, limit: int) -> list[tuple[str, Tensor]]:
    """Return the first captioned 64×64 images of a tar file."""
    items = data.open_source("tar", path=path).items()
    pictures = [(item.caption, item.signal) for item in items if item.caption and item.signal.shape == (3, SIDE, SIDE)]
    if not pictures:
        raise SystemExit(f"{path} must hold captioned images of {SIDE}×{SIDE} pixels, found none")
    return pictures[:limit]


# -- tokenizer and model --------------------------------------------------------------------------


def host_tokenizer(captions: list[str]):
    """Return a byte-level BPE tokenizer trained on the captions."""
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
    """Return a small Llama with random weights, with embedding rows for text and codec tokens.

    To use a trained model, pass it to `Bridge.merge` in place of None. The bridge then adds embedding rows, which start
    at the mean of the old ones. In a model of random weights, random rows learn faster.
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
    """Train on sequences of caption and image. The loss covers the tokens of the image only."""
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
    start = printed = time.perf_counter()
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
        if now - printed > 10 or step == steps:
            printed, left = now, (now - start) / step * (steps - step)
            print(
                f"step {step:4} of {steps}  loss {loss.item() / math.log(2):.2f} bits per token  {left:.0f} s to go",
                flush=True,
            )
    model.eval()


def shuffled(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of indices without end, each epoch in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(batch)


@torch.no_grad()
def draw(bridge: Bridge, model, captions: list[str], temperature: float, seed: int) -> list[Tensor]:
    """Draw one image per caption with `generate()` and the bridge's logits processor."""
    torch.manual_seed(seed)
    inputs = bridge([[text] for text in captions])
    structure = bridge.logits_processor(only=CHANNEL, size=(SIDE, SIDE))
    ids = model.generate(
        **inputs, logits_processor=[structure], max_new_tokens=CONTEXT - inputs["input_ids"].shape[1],
        do_sample=True, temperature=temperature,
    )  # fmt: skip
    return [picture for (picture,) in bridge.decode(ids[:, inputs["input_ids"].shape[1] :])]


def nearest(pictures: list[Tensor], known: list[tuple[str, Tensor]]) -> list[str]:
    """Return, for each image, the caption of the known image with the smallest pixel error."""
    table = torch.stack([picture for _, picture in known]).flatten(1)
    return [known[int(torch.cdist(p.flatten()[None], table).argmin())][0] for p in pictures]


def contact_sheet(captions: list[str], pictures: list[Tensor], unseen: int, path: Path) -> None:
    """Write a PNG of captions and images, eight in a row. The last `unseen` captions are red."""
    columns, cell, line = 8, 2 * SIDE + 12, 28
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * cell, rows * (cell + line)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for number, (text, picture) in enumerate(zip(captions, pictures, strict=True)):
        x, y = number % columns * cell, number // columns * (cell + line)
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        canvas.paste(Image.fromarray(pixels).resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS), (x + 6, y + 6))
        ink = "firebrick" if number >= len(pictures) - unseen else "black"
        pen.text((x + cell / 2, y + cell + line / 2 - 4), text[:24], fill=ink, font=font, anchor="mm")
    canvas.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="a tar file of captioned 64×64 images; default: emoji drawn with a font")
    parser.add_argument("--pictures", type=int, default=400, help="number of images of the tar to train on")
    parser.add_argument("--copies", type=int, default=1, help="images drawn per caption, each shifted a little")
    parser.add_argument("--codec", default="pictures-fsq", help="an image codec that ships, or a folder")
    parser.add_argument("--steps", type=int, default=850)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--draw", type=int, default=24, help="images to draw for trained and for unseen captions")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("llama-emoji"))
    args = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(1)  # more threads hardly speed up a model this small

    known, unseen = (tar_pictures(args.data, args.pictures), []) if args.data else font_emoji(args.seed, args.copies)
    tokenizer = host_tokenizer([text for text, _ in known])
    bridge = Bridge.merge(tokenizer, None, [Channel(CHANNEL, codecs.load(args.codec))])
    model = llama(bridge, args.seed)
    print(f"{bridge.first} text tokens and {bridge.size - bridge.first} tokens of {args.codec}; "
          f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")  # fmt: skip
    train(bridge, model, known, args.steps, args.batch, args.seed)

    choice = random.Random(args.seed)
    captions = sorted({text for text, _ in known})
    prompts = choice.sample(captions, min(args.draw, len(captions)))
    new = [text for text, _ in choice.sample(unseen, min(args.draw, len(unseen)))]
    pictures = draw(bridge, model, prompts + new, args.temperature, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    contact_sheet(prompts + new, pictures, len(new), args.out / "drawn.png")
    bridge.save_pretrained(args.out)
    model.save_pretrained(args.out)

    found = nearest(pictures, known + unseen)
    for kind, texts, near in (("trained", prompts, found[: len(prompts)]), ("unseen", new, found[len(prompts) :])):
        if texts:
            right = sum(a == b for a, b in zip(texts, near, strict=True))
            print(f"{kind} captions: the nearest known image is the right one for {right} of {len(texts)}")
    decoded = sum(picture.shape == (3, SIDE, SIDE) for picture in pictures)
    print(f"{decoded} of {len(prompts + new)} pictures decode; "
          f"{args.out / 'drawn.png'}, {time.perf_counter() - start:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
