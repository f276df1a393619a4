"""What the command line takes, and what its --help says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from tokenloom import __version__


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are ours: one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    root = _Parser(
        prog="tokenloom",
        description="Discrete codecs for text, images and audio behind one interface, compared honestly.",
        epilog=_MAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"tokenloom {__version__}")
    root.add_argument("--debug", action="store_true", help="show the traceback of an error; works after a command too")
    commands = root.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, summary: str, epilog: str, usage: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog, usage=usage,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    listing = command("codecs", "list the codecs there are", "examples:\n  tokenloom codecs\n  tokenloom codecs --json")
    listing.add_argument("--json", action="store_true", help="every figure, for programs")

    encode = command("encode", "turn a picture, a sound or a text into tokens in a file", _ENCODE_EXAMPLES)
    encode.add_argument("input", type=Path, help="a picture, sound or text file")
    encode.add_argument("-o", "--output", type=Path, help="the file to write; default: the input with .tlm")
    encode.add_argument("-c", "--codec", help="a registered name, a shipped name, a folder or a hub id")
    dial = encode.add_mutually_exclusive_group()
    dial.add_argument("--setting", help="a value of the codec's dial (tokenloom codecs lists them)")
    dial.add_argument("--psnr", type=float, metavar="DB", help="the lowest setting that reaches this PSNR")
    dial.add_argument("--bpp", type=float, metavar="BITS", help="the highest setting within these bits per pixel")
    dial.add_argument("--kbps", type=float, metavar="KBIT", help="the highest setting within these kbit/s")

    decode = command("decode", "turn a file of tokens back into a picture, a sound or a text", _DECODE_EXAMPLES)
    decode.add_argument("input", type=Path, help="what tokenloom encode wrote")
    decode.add_argument(
        "-o", "--output", type=Path, help="the file to write; default: the input with .png, .wav or .txt"
    )
    decode.add_argument(
        "-c", "--codec", help="the codec that wrote it, where it is not a shipped one: a folder or hub id"
    )
    decode.add_argument(
        "--decoder", metavar="NAME", help="a diffusion decoder's name or folder, or diffusion: the codec's own"
    )
    decode.add_argument("--steps", type=int, metavar="N", help="of the decoder: 1 is fastest; default: its own")
    decode.add_argument("--seed", type=int, metavar="N", help="of the decoder's noise (default: 0)")

    export = command("export", "write a codec's encoder and decoder for ONNX Runtime or torch.export", _EXPORT_EXAMPLES)
    export.add_argument("codec", metavar="CODEC", help="a shipped name, a folder or a hub id")
    export.add_argument("--format", default="onnx", help="onnx (default) or torch.export")
    export.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the codec's name and the format")
    export.add_argument("--setting", help="a value of the codec's dial, fixed from now on; default: the codec's own")

    _generation(command("generate", "make pictures, sounds and texts out of one another", _GENERATE_EXAMPLES))

    usage = "tokenloom {} [-m] [--cfg job] [key=value ...]"
    train = command("train", "train a codec, or a transformer over codecs", _train_help(), usage.format("train"))
    compare = command("compare", "find which codec buys how much fidelity for how many bits", _compare_help(),
                      usage.format("compare"))  # fmt: skip
    evaluate = command("evaluate", "measure one codec at each of its settings, or a model", _EVALUATE_EXAMPLES,
                       usage.format("evaluate CODEC"))  # fmt: skip
    evaluate.add_argument("codec", metavar="CODEC", help="a registered name, a shipped name, a folder or a hub id")
    evaluate.add_argument("--modelled", action="store_true",
                          help="also the bits under a small transformer trained on its codes")  # fmt: skip
    tokenize = command("tokenize", "turn a data set into shards of tokens", _tokenize_help(), usage.format("tokenize"))
    for sub in (train, compare, evaluate, tokenize):
        sub.add_argument("-m", "--multirun", action="store_true", help="sweep: one job for each of key=a,b,c")
        sub.add_argument("-c", "--cfg", choices=["job", "hydra", "all"], help="print the configuration and stop")
        sub.add_argument("-r", "--resolve", action="store_true", help="with --cfg: fill in ${references}")
        sub.add_argument("-p", "--package", help="with --cfg: only this part, such as optimizer")
        info = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
        sub.add_argument("--info", nargs="?", const="all", choices=info, help="how the configuration came about")
    return root


def _generation(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("segments", nargs="*", metavar="SEGMENT", help="a text, or a picture, sound or text file")
    generate.add_argument(
        "--to",
        metavar="WHAT",
        default="any",
        help="image, audio, text, a channel of the model, or any: it chooses (default)",
    )
    generate.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the file to write; default: named after the prompt"
    )
    generate.add_argument(
        "-n", "--count", type=int, metavar="N", default=1, help="how many; pictures make a grid (default: 1)"
    )
    generate.add_argument(
        "--model", metavar="NAME", default="omni-small", help="a shipped name, a folder or a hub id (omni-small)"
    )
    generate.add_argument(
        "--decoder", metavar="NAME", default="plain",
        help="what turns tokens into signals: plain, the codec (default), or diffusion",
    )  # fmt: skip
    generate.add_argument(
        "--steps", type=int, metavar="N", help="of --decoder diffusion: 1 is fastest; default: its own"
    )
    generate.add_argument(
        "--seed", type=int, metavar="N", help="the same seed gives the same result; default: a new one, printed"
    )
    generate.add_argument(
        "--guidance", type=float, metavar="SCALE", help="how much the prompt weighs: 1 as trained, more is stricter"
    )
    generate.add_argument(
        "--temperature", type=float, metavar="T", help="0 takes the likeliest token, 1 samples as trained"
    )
    generate.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens")
    generate.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest tokens that sum to P")
    generate.add_argument(
        "--best-of", type=int, metavar="N", help="of N samples, keep the one that the model finds to fit best"
    )


def choices(group: str) -> list[str]:
    """The choices of a configuration group: `image/fsq` of `codec`. Reads folder names only."""
    from importlib import import_module

    root = Path(import_module("tokenloom.conf").__file__).parent / group
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def _train_help() -> str:
    return f"""\
key=value pairs:
  codec=NAME           {", ".join(choices("codec"))};
                       its own keys with a dot: codec.stride=16
  data=NAME            {", ".join(choices("data"))};
                       its own keys with a dot: data.path=photos
  experiment=NAME      {", ".join(choices("experiment"))}: recipes of shipped weights and of published models
  steps=10000          length of the run; fixes the learning-rate schedule
  batch_size=16        crops a step; accumulate=4 computes it in four parts
  crop.size=128        pixels of a side, or samples of sound
  losses.l1=1          weights of losses: l1, l2, msssim, stft, mel, lpips, quantizer
  optimizer.lr=9e-4    also betas, weight_decay, warmup, final, clip
  precision=32-true    or bf16-mixed, 16-mixed (GPU)
  out=FOLDER           where weights, logs and samples go; default: runs/train/<date>
  resume=true          go on with the run in `out`, exactly where it stopped
  stop_after=5000      stop early without shortening the schedule
  seed=0
Every key and its default: tokenloom train --cfg job. Ctrl-C stops after a step and saves.

examples:
  tokenloom train codec=image/fsq data=folder data.path=photos out=runs/mine
  tokenloom train codec=audio/rvq codec.sample_rate=16000 data=tar data.path=speech.tar
  tokenloom train codec=image/fsq data=images steps=500 resume=true out=runs/mine
  tokenloom train -m codec=image/fsq,image/bsq seed=0,1 data=scenes out=runs/sweep
  tokenloom train -m hydra/launcher=joblib hydra.launcher.n_jobs=4 seed=0,1,2,3 codec=image/fsq data=scenes
  torchrun --nproc-per-node 2 -m tokenloom train codec=image/fsq data=scenes out=runs/two
"""


def _compare_help() -> str:
    return f"""\
key=value pairs:
  codecs=[A,B,…]       registered names, shipped names, folders of trained ones, globs such as 'runs/*';
                       A+diffusion: A's codes, decoded by its diffusion decoder; A+NAME by another, A+NAME@2 in 2 steps
  data=NAME            {", ".join(choices("data"))};
                       its own keys with a dot: data.path=photos
  items=20             at most so many of each modality
  anchor=image/jpeg    whom BD-rate is against
  rate=0.2             bits per pixel (or {{bits_per_pixel: 0.2, kbps: 6}}) of the examples side by side
  modelled=true        also bits under a small transformer trained on the codes of other items (slow):
                       'training={{name: tar, path: train.tar}}', else of what is not evaluated;
                       budget=1048576 tokens seen for each codec and setting
  out=FOLDER           where results.json, results.csv, plots and report.html go
Every key and its default: tokenloom compare --cfg job. Ctrl-C writes what was found so far.

examples:
  tokenloom compare 'codecs=[image/jpeg,image/avif,natural-fsq]' data=folder data.path=photos
  tokenloom compare 'codecs=[audio/opus,audio/mp3]' data=phrases out=runs/music
  tokenloom compare 'codecs=[image/jpeg,runs/mine]' data=tar data.path=photos.tar items=20
  tokenloom compare 'codecs=[natural-fsq,natural-fsq+diffusion]' data=folder data.path=photos
"""


def _tokenize_help() -> str:
    return f"""\
key=value pairs:
  data=NAME            {", ".join(choices("data"))};
                       its own keys with a dot: data.path=photos.tar
  codec=NAME           a shipped name, a folder, a hub id, or a registered name;
                       its own keys with a dot: codec.sample_rate=16000
  setting=VALUE        of the codec's dial, or a target: 'setting={{psnr: 30}}'
  format=webdataset    tar shards: KEY.npy, KEY.json, KEY.txt (the caption); or parquet
  shard_items=1000     items of the data to a shard
  batch_size=1         neighbours of one size encoded together: faster, and a code may differ at a tie
  workers=4            processes, 0: none but this one; default: one for each core
  device=cpu           or cuda
  engine=local         or ray: the machines of RAY_ADDRESS, which share the data and the output
  out=FOLDER           where the shards and _index.json go
Every key and its default: tokenloom tokenize --cfg job. After Ctrl-C or a kill the same command goes on with the first
missing shard. Shards are the same bytes whatever workers and engine; tokenloom.data.tokens.read reads them back.

examples:
  tokenloom tokenize data=tar data.path=photos.tar codec=natural-fsq out=tokens/photos
  tokenloom tokenize data=folder data.path=speech codec=digits-rvq setting=4 format=parquet out=tokens/speech
  tokenloom tokenize data=hub data.path=ylecun/mnist codec=image/jpeg 'setting={{psnr: 30}}' out=tokens/mnist
  tokenloom tokenize data=tar 'data.path=photos-*.tar' codec=natural-fsq engine=ray out=/shared/tokens
"""


_MAIN_EXAMPLES = """\
examples:
  tokenloom codecs
  tokenloom encode photo.png --codec natural-fsq
  tokenloom decode photo.tlm -o back.png
  tokenloom compare 'codecs=[image/jpeg,image/avif,natural-fsq]' data=images
  tokenloom train codec=image/fsq data=folder data.path=photos out=runs/mine
  tokenloom generate "red heart" --to image -o heart.png
tokenloom COMMAND --help says more.
"""

_ENCODE_EXAMPLES = """\
An audio codec without weights (audio/opus) is built for the file's own sample rate and channels;
a trained one has its own, to which the sound is brought.

examples:
  tokenloom encode photo.png --codec natural-fsq
  tokenloom encode photo.png -o small.tlm --codec image/avif --bpp 0.2
  tokenloom encode photo.png --codec image/jpeg --setting 30
  tokenloom encode song.wav --codec audio/opus --kbps 24
  tokenloom encode notes.txt --codec text/bytes
"""

_DECODE_EXAMPLES = """\
The file names its codec by a fingerprint, found among those without weights and those shipped.
Without -o an existing file is left alone: photo.png may be the original.
A diffusion decoder adds the detail that the codes do not say: sharper, and less like the original pixel by pixel.

examples:
  tokenloom decode photo.tlm -o back.png
  tokenloom decode song.tlm
  tokenloom decode photo.tlm -o back.png --codec runs/mine
  tokenloom decode photo.tlm -o sharp.png --decoder diffusion
  tokenloom decode photo.tlm -o sharp.png --decoder natural-fsq-diffusion --steps 2 --seed 1
"""

_EXPORT_EXAMPLES = """\
The encoder turns signals of any size into indices, the decoder indices into signals of whole strides; config.json says
their shapes and README.md how to run them. What was written is run and compared with the codec before it takes its
place; ONNX needs pip install 'tokenloom[export]'.

examples:
  tokenloom export natural-fsq
  tokenloom export digits-rvq --setting 3 -o exported/digits
  tokenloom export runs/mine --format torch.export
"""

_GENERATE_EXAMPLES = """\
Segments are read in order: a name that ends like a picture, sound or text file is one, all else is text.
What is made goes to stdout (texts) or to files whose names do; tokens, bits and seconds go to stderr.
Sampling that is not named is the model's own for what it makes.

examples:
  tokenloom generate "red heart" --to image -o heart.png
  tokenloom generate seven --to audio -o seven.wav
  tokenloom generate seven.wav --to text
  tokenloom generate face.png "make it dark skin tone" --to image
  tokenloom generate "waving hand" --to image -n 9 --guidance 3 --temperature 0.9 --seed 0
  tokenloom generate "red heart" --to image --decoder diffusion --steps 2
  tokenloom generate "three plus four"
"""

_EVALUATE_EXAMPLES = """\
The key=value pairs are those of tokenloom compare. A model for text, images and sound has its own:
packs=FOLDER of its test data, items, rows, sampling, seed, out; tokenloom evaluate omni-small --cfg job lists them.
A diffusion decoder is compared with the plain one and two controls on the same codes: training={name: …, path: …} is
the training split; its own keys are train_items, settings and steps.

examples:
  tokenloom evaluate natural-fsq data=images
  tokenloom evaluate omni-small packs=data
  tokenloom evaluate runs/mine data=folder data.path=photos items=50 out=runs/mine/evaluation
  tokenloom evaluate runs/mine --modelled data=tar data.path=test.tar 'training={name: tar, path: train.tar}'
  tokenloom evaluate NAME-diffusion data=tar data.path=test.tar 'training={name: tar, path: train.tar}'
"""
