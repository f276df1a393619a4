"""The command line. The modules named here import heavy packages; a command loads them when it runs."""

from tokenloom import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, submodules=["conversion", "evaluation", "exporting", "generation", "hydra_app", "listing"]
)
