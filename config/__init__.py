"""What everyone agrees on: values, without sockets, loops or clocks.

`model` holds the domain's values, with `address` and `weights` beside it; `units` reads
durations and sizes; `settings` is every knob of the configuration file, `loader` reads the
file; `table` is what a worker serves from. Only `settings` and `loader` need more than the
standard library, and no worker imports them.
"""
