"""What a library says of a damaged file, made fit for a sentence."""

_LONGEST = 200  # characters; scipy quotes the whole file


def reason(error: BaseException) -> str:
    """The message of an error in one printable line of at most 200 characters; its type where it has none."""
    text = " ".join(str(error).split())
    text = "".join(c for c in text if c.isprintable())
    return text[:_LONGEST] + ("..." if len(text) > _LONGEST else "") or type(error).__name__
