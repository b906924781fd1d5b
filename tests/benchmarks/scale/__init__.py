"""Beyond one machine: the same result by any engine, speed, memory, deaths, and what it costs."""
