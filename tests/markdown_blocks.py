"""Reads Markdown pages for tests/test_docs.py: links, anchors, code blocks, and the `wsss` commands in them."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?[^)]*\)")
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:    [^\n]*\n(?:[ ]*\n(?=    ))?)+")
_SEPARATORS = {"|", "||", "&&", ";", "&"}
# Programs that hand their arguments to wsss.
_WRAPPERS = re.compile(r"(^|/)(train|map)\.sbatch$")


@dataclass(frozen=True)
class Block:
    """A code block: its language ("" if none is named) and its text."""

    language: str
    text: str


def without_code(text: str) -> str:
    """Return Markdown without its code, in which brackets are not links."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def links(text: str) -> list[str]:
    """Return the targets of all links that lead to a file or an anchor of the repository."""
    return [target for target in LINK.findall(without_code(text)) if not re.match(r"[a-z]+:", target)]


def headings(text: str) -> list[str]:
    """Return the text of every heading, without markup."""
    titles = re.findall(r"^#{1,6} +(.+?) *$", _FENCE.sub("", text), flags=re.MULTILINE)
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", title) for title in titles]


def forge_anchor(heading: str) -> str:
    """Return the anchor that GitHub and GitLab give a heading."""
    return re.sub(r" ", "-", re.sub(r"[^\w\- ]", "", heading.lower()))


def site_anchor(heading: str) -> str:
    """Return the anchor that Python-Markdown, and so the site, gives a heading."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def blocks(text: str) -> list[Block]:
    """Return all code blocks: fenced ones, then indented ones."""
    fenced = [Block(match[2], _dedent(match[3], len(match[1]))) for match in _FENCE.finditer(text)]
    indented = [Block("", _dedent(match[0], 4)) for match in _INDENTED.finditer(_FENCE.sub("\n", text))]
    return fenced + indented


def _dedent(text: str, width: int) -> str:
    return "".join(line[width:] if line[:width].isspace() else line for line in text.splitlines(keepends=True))


def command_lines(text: str) -> Iterator[str]:
    """Yield every line of shell in the code blocks of a page; of a console block those after a prompt."""
    for block in blocks(text):
        if block.language not in ("", "sh", "bash", "console"):
            continue
        source = re.sub(r"\\\n\s*", " ", block.text)
        source = re.sub(r"\|[ ]*\n\s*", "| ", source)
        for line in source.splitlines():
            if block.language != "console":
                yield line
            elif line.startswith("$ "):
                yield line[2:]


def wsss_commands(text: str) -> list[list[str]]:
    """Return the words after `wsss` of every command in the code blocks of a page."""
    commands = []
    for line in command_lines(text):
        if not re.search(r"wsss|\.sbatch\b", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in _SEPARATORS:
                commands.append(words)
                words = []
            else:
                words.append(word)
    return [found for words in commands if (found := _after_wsss(words)) is not None]


def _after_wsss(words: list[str]) -> list[str] | None:
    """Return the arguments of wsss in a simple command, without redirections; None if it does not call wsss."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return None
    start = next((position + 1 for position, word in enumerate(words)
                  if word == "wsss_cli" or _WRAPPERS.search(word) or (position == 0 and word == "wsss")), None)
    if start is None:
        return None
    end = next((position for position, word in enumerate(words) if word in (">", ">>", "<", "2>")), len(words))
    return words[start:end]


def check_command(words: list[str], root: Any) -> str:
    """Return what is wrong with a command line of wsss, given the program's root command; "" if nothing is."""
    command, name = root, "wsss"
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return f"{name} has no command {' '.join(words[:1])!r}"
        command, name, words = command.commands[words[0]], f"{name} {words[0]}", words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]
    if unknown:
        return f"{name} has no option {', '.join(unknown)}"
    if "..." in words:
        return ""
    try:
        values = command.make_context(name, list(words)).params
    except Exception as error:  # whatever the parser rejects, in its own words
        return f"{name}: {error.format_message() if hasattr(error, 'format_message') else error}"
    return "; ".join((*_missing_output(command, values), *_bad_choices(command, values)))


def _missing_output(command: Any, values: dict[str, Any]) -> Iterator[str]:
    """Yield a missing output that only image files do not need, if the inputs are shards."""
    for parameter in command.params:
        is_conditional = "Required unless the inputs are image files" in str(getattr(parameter, "help", ""))
        if is_conditional and not values[parameter.name] and any(path.endswith(".h5") for path in values["paths"]):
            yield f"{command.name} needs {parameter.opts[-1]}"


def _bad_choices(command: Any, values: dict[str, Any]) -> Iterator[str]:
    """Yield every option whose value is not one of the words that its help lists, such as `fp32|bf16|fp16`."""
    for parameter in command.params:
        choices = str(parameter.metavar or "").split("|")
        value = values.get(parameter.name)
        if len(choices) > 1 and all(re.fullmatch(r"[a-z0-9-]+", choice) for choice in choices) \
                and isinstance(value, str) and value and value not in choices:
            yield f"{parameter.opts[-1]} {value} is not one of {', '.join(choices)}"
