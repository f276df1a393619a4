"""`tokenloom compare`: compare the fidelity of codecs and the bits they need."""

from __future__ import annotations

import argparse

from tokenloom import lazy
from tokenloom.cli import options

hydra_app = lazy.load("tokenloom.cli.hydra_app", "eval")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add(parser)
    parser.epilog = f"""\
key=value pairs:
  codecs=[A,B,…]       registered names, shipped names, folders of trained codecs, globs such as 'runs/*';
                       my_codec.py:MyCodec: a class of your own file, which is run; with its arguments
                       '{{name: my_codec.py:MyCodec, width: 64}}';
                       A+diffusion: codes of A, decoded by its diffusion decoder; A+NAME: by the decoder NAME,
                       A+NAME@2: in 2 steps
  data=NAME            {", ".join(options.choices("data"))};
                       its own keys with a dot: data.path=photos
  items=20             largest number of items of each modality
  anchor=image/jpeg    codec that BD-rate is measured against
  rate=0.2             bits per pixel (or {{bits_per_pixel: 0.2, kbps: 6}}) of the examples side by side
  references=FOLDER    published curves on the charts of images, with BD-rate against them: JSON files, folders and
                       globs in the results layout of CompressAI; a list: 'references=[curves,"more/*.json"]'
  export=compressai    write the curve of each image codec in that layout, to out/compressai
  protocols=[kodak]    PSNR and MS-SSIM as CompressAI publishes them
  modelled=true        also the bits under a small transformer, trained on the codes of other items (slow):
                       'training={{name: tar, path: train.tar}}', or else the items of `data` that are not evaluated;
                       budget=1048576 is the number of training tokens for each codec and setting
  device=auto          for learned codecs: a GPU if there is one; or cpu, cuda, cuda:1, mps
  out=FOLDER           folder for results.json, results.csv, plots and report.html
Every key and its default: tokenloom compare --cfg job. Ctrl-C writes the results so far.

examples:
  tokenloom compare 'codecs=[image/jpeg,natural-fsq]' data=images
  tokenloom compare 'codecs=[image/jpeg,image/avif,natural-fsq]' data=folder data.path=photos
  tokenloom compare 'codecs=[audio/opus,audio/mp3]' data=phrases out=runs/music
  tokenloom compare 'codecs=[image/jpeg,runs/mine]' data=tar data.path=photos.tar items=20
  tokenloom compare 'codecs=[image/jpeg,my_codec.py:MyCodec]' data=images
  tokenloom compare 'codecs=[natural-fsq,natural-fsq+diffusion]' data=folder data.path=photos
"""


def run(args: argparse.Namespace, rest: list[str]) -> int:
    return hydra_app.run("compare", rest, options.flags(args))
