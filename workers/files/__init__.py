"""The files of a model as they lie there: read and checked before any class is asked."""
