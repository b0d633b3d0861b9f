"""A package only so that `tests.harness` is found: some distributions install a `tests` too."""
