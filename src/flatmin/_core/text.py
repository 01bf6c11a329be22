"""Text of others, shown as it is."""

import re
import unicodedata

# what spreadsheets compute (with fullwidth forms, and spaces before them); marks before it are doubled, not lost
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r＝＋－＠]|'*[\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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


def spreadsheet_cell(text: str) -> str:
    """A text for a CSV that a spreadsheet does not run: `'` before what begins as a formula does; numbers stay.

    Args:
        text: a label.

    Returns:
        The text, marked where a spreadsheet would compute it; `spreadsheet_label` takes the mark away.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def spreadsheet_label(cell: str) -> str:
    """The text behind a cell that `spreadsheet_cell` wrote.

    Args:
        cell: what stands in the file.

    Returns:
        The text without its mark.
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) and not _NUMBER.fullmatch(cell[1:]) else cell
