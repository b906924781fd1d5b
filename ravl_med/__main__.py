"""``python -m ravl_med``."""

from ravl_med.cli import main

main()
