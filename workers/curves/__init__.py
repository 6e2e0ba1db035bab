"""Rate-distortion curves priced in nats per token, exact or estimated from samples."""
