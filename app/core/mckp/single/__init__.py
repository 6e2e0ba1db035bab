"""One limit on bytes: hull, LP relaxation, and a core around its break that grows."""
