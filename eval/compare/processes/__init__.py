"""The tasks of a comparison, and the processes that perform them."""
