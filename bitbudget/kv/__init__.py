"""KV caches that an allocation chose: their codecs, the caches, and attention over them."""
