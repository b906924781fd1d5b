"""Files wherever they lie: on this machine, or as objects in a storage that fsspec opens."""
