"""What a damaged file holds, or a library says of it, made fit for a sentence."""

_LONGEST = 200  # characters; scipy quotes the whole file


def one_line(text: str) -> str:
    """A stranger's text as one printable line of at most 200 characters."""
    text = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return text[:_LONGEST] + ("..." if len(text) > _LONGEST else "")


def reason(error: BaseException) -> str:
    """The message of an error as :func:`one_line`; its type where it has none."""
    return one_line(str(error)) or type(error).__name__
