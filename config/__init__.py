"""What everyone agrees on: values, without sockets, loops or clocks.

In reading order: `address`, `weights` and `units` are the small values; `model` is what one
configuration says, with every default filled in; `table` is what a worker serves from. No
worker needs more, and these import the standard library only.

The file: `document` parses YAML and keeps its lines, `settings` (with `service_settings`, of
`knobs`, `places`, `secret_files` and `tls_files`) is every knob, `conflicts` is what must hold between them, `loader` puts
them together and words the errors. These need pydantic and a YAML parser; `origin`, where a
configuration comes from, does not.
"""
