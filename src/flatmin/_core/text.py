"""Text of others, shown as it is."""

import unicodedata


def printable(text: str) -> str:
    """Text of others for a terminal: what steers it (escape sequences, returns, changes of direction) is shown.

    Args:
        text: any text, of one line.

    Returns:
        The text, with a backslash escape for each such character.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else escaped(c) for c in text)


def escaped(character: str) -> str:
    r"""A character as a backslash escape.

    Args:
        character: any.

    Returns:
        ASCII, such as `\x1b`.
    """
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
