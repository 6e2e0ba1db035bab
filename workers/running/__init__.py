"""Running a model: float32 loading, streaming forward pass, layer walk, taps, sampled tokens."""
