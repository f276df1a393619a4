"""The command line. Modules that import heavy packages are loaded when a command first uses them, as `cli.files`."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, submodules=["evaluation", "exporting", "files", "generation", "hydra_app", "listing"]
)
