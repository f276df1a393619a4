"""`python -m tokenloom`, or under torchrun: `torchrun --nproc-per-node 2 -m tokenloom train …`."""

import sys

from tokenloom.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
