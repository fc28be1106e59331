"""What a reward's docstring says to a person at a terminal: its text, and each option's line."""

from __future__ import annotations

import re

_SECTION = re.compile(r"(Args|Arguments|Returns|Yields|Raises|Example|Examples|Note|Notes):\s*$")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)(?: \(.*\))?:\s*(.*)")


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    r"""A Google-style docstring without its sections and examples, and its arguments.

    Args:
        text: As :func:`inspect.getdoc` gives it.

    Returns:
        The description, and the text of each argument on one line.

    >>> split_docstring("Sums.\n\nArgs:\n    a: One\n        number.\n    b: Another.\n\n>>> add(1, 2)\n3")
    ('Sums.', {'a': 'One number.', 'b': 'Another.'})
    """
    lines = text.splitlines()
    ends = (i for i, line in enumerate(lines) if _SECTION.match(line) or line.startswith(">>>"))
    first = next(ends, len(lines))
    arguments: dict[str, str] = {}
    section, name = "", ""
    for line in lines[first:]:
        if line.strip() and not line.startswith(" "):
            section = line.rstrip(": ")
        elif section in ("Args", "Arguments") and line.strip():
            match = _ARGUMENT.match(line.strip()) if not line.startswith(" " * 8) else None
            if match:
                name, arguments[match.group(1)] = match.group(1), match.group(2)
            elif name:
                arguments[name] = f"{arguments[name]} {line.strip()}".strip()
    return "\n".join(lines[:first]).strip(), arguments
