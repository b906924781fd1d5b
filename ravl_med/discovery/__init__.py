"""RaVL, Stage 1: feature clusters, performance gap, influence, ranking."""
