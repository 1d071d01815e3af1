"""The relation graph of training captions: extract, build, import, retrieve."""
