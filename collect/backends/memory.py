"""When memory runs out."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may help.

    torch raises ``OutOfMemoryError``, a ``RuntimeError``, for some devices and plain ones for others; all say it.
    """
    text = str(error).lower()
    told = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)
