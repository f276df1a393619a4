"""`tokenloom train`: train a codec, a transformer or a diffusion decoder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tokenloom import lazy
from tokenloom.cli import options

if TYPE_CHECKING:
    from omegaconf import DictConfig

hydra_app = lazy.load("tokenloom.cli.hydra_app", "train")
hydra_config = lazy.load("hydra.core.hydra_config", "train")
jobs = lazy.load("tokenloom.cli.jobs", "train")
own = lazy.load("tokenloom.cli.own", "train")
resuming = lazy.load("tokenloom.cli.resuming", "train")
loop = lazy.load("tokenloom.train.loop", "train")
omegaconf = lazy.load("omegaconf", "train")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add(parser)
    parser.epilog = f"""\
key=value pairs:
  codec=NAME           {", ".join(options.choices("codec"))};
                       its own keys with a dot: codec.stride=16;
                       my_codec.py:MyCodec is a class of your own file, which is run
  data=NAME            {", ".join(options.choices("data"))};
                       its own keys with a dot: data.path=photos
  experiment=NAME      {", ".join(options.choices("experiment"))}: recipes of shipped weights and of published models
  steps=10000          length of the run; fixes the learning-rate schedule
  batch_size=16        crops per step; accumulate=4 computes them in four parts
  crop.size=128        side in pixels, or samples of sound
  losses.l1=1          weights of losses: l1, l2, msssim, stft, mel, lpips, quantizer
  optimizer.lr=9e-4    also betas, weight_decay, warmup, final, clip
  device=auto          a GPU if there is one; or cpu, cuda, cuda:1, mps
  precision=auto       bf16-mixed unless it is slow here, then 32-true; or either, or 16-mixed (GPU)
  out=FOLDER           folder for weights, logs and samples; default: runs/train/<date>
  resume=FOLDER        continue the run in FOLDER exactly where it stopped, with its own configuration and data
  logger=tensorboard   or wandb, mlflow, csv; a list: 'logger=[tensorboard,wandb]'
  import=my_code.py    your own codecs, losses, metrics, data sources and tasks; a list: 'import=[a.py,b.py]'
  stop_after=5000      stop early without shortening the schedule
  seed=0
Every key and its default: tokenloom train --cfg job. Ctrl-C stops after the current step and saves.

examples:
  tokenloom train codec=image/fsq data=folder data.path=photos out=runs/mine
  tokenloom train codec=audio/rvq codec.sample_rate=16000 data=tar data.path=speech.tar
  tokenloom train resume=runs/mine
  tokenloom train resume=runs/mine steps=20000
  tokenloom train codec=my_codec.py:MyCodec codec.width=64 data=folder data.path=photos
  tokenloom train -m codec=image/fsq,image/bsq seed=0,1 data=scenes out=runs/sweep
  tokenloom train -m hydra/launcher=joblib hydra.launcher.n_jobs=4 seed=0,1,2,3 codec=image/fsq data=scenes
  torchrun --nproc-per-node 2 -m tokenloom train codec=image/fsq data=scenes out=runs/two
"""


def run(args: argparse.Namespace, rest: list[str]) -> int:
    return hydra_app.run("train", rest, options.flags(args))


def job(cfg: DictConfig) -> None:
    """Train, and print the folder of the run."""
    resumed = hydra_config.HydraConfig.get().job.config_name == resuming.CONFIG
    config = omegaconf.OmegaConf.to_object(cfg)  # a TrainConfig: hydra_app registers it as the schema
    run = loop.Run(config if resumed else own.settled(config))  # nobody has named the files in the record of a run
    if run.first and not resumed:
        jobs.record(cfg, run.out)  # now that the run is valid
    run.go()
    if run.first:
        print(run.out)
    if run.interrupted and hydra_config.HydraConfig.get().mode.name == "MULTIRUN":
        raise KeyboardInterrupt  # ends the sweep, too
