"""The one config: a YAML 1.2 file, read into frozen models that forbid unknown keys.

Defaults are defined here and nowhere else. Paths are relative to the config file. The effective
config, with every default filled in, is written into each run folder.
"""
