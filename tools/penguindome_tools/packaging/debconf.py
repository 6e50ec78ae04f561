"""What debconf asks, made from the tables of questions: templates, `config` scripts, the catalogue for translators and
examples of preseeding. `python -m penguindome_tools.packaging.debconf` writes them into debian/, where they are kept.

A template has no default: the `config` script sets what is in force, or the default, before it asks, because a bare
Enter or the end of input would bring a template's default back over what is in force.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from penguindome.client.questions import QUESTIONS as CLIENT_QUESTIONS
from penguindome.questions import Question
from penguindome_tools.questions import QUESTIONS as SERVER_QUESTIONS

CHECKOUT = Path(__file__).resolve().parents[3]
SHARED_CONFIG = CHECKOUT / "debian/debconf/config.sh"
MADE_BY = "Made by `python -m penguindome_tools.packaging.debconf`: change the questions, not this file."
_TYPES = {"choice": "select", "boolean": "boolean", "secret": "password"}


@dataclass(frozen=True)
class Package:
    """A package that asks, and the program that asks the same elsewhere."""

    name: str
    program: str
    questions: Sequence[Question]
    extra: Sequence[tuple[str, str, str, str]] = ()
    """Templates that are no questions of a setup: name, type, short and long description."""


_REFUSED = (
    "refused", "error", "This answer cannot be: ${question}",
    "${reason}",
)  # fmt: skip
_PURGE = (
    "Without its signing keys, a new installation cannot speak to the clients of this one, and every machine has to be "
    "set up again. Unless they are deleted, keys and data are moved into a directory below /var/backups that root "
    "alone can read."
)
PACKAGES = (
    Package("penguindome-client", "penguindome-client", CLIENT_QUESTIONS, (_REFUSED,)),
    Package(
        "penguindome-server", "penguindome", SERVER_QUESTIONS,
        (
            _REFUSED,
            (
                "purge-data", "boolean", "Delete the server's signing keys and its data",
                _PURGE,
            ),
        ),
    ),
)  # fmt: skip


def templates(package: Package) -> str:
    """The templates file, for po-debconf."""
    blocks = [f"# {MADE_BY}\n"]
    for question in package.questions:
        kind = _TYPES.get(question.kind, "string")
        choices = f"Choices: {', '.join(question.choices)}\n" if question.choices else ""
        blocks.append(_template(package, question.name, kind, choices, question.prompt, question.help))
    for name, kind, short, long in package.extra:
        blocks.append(_template(package, name, kind, "", short, long))
    blocks.append(f"Template: {package.name}/pending\nType: boolean\nDescription: for internal use\n")
    return "\n".join(blocks)


def _template(package: Package, name: str, kind: str, choices: str, short: str, long: str) -> str:
    text = "".join(f" {line}\n" for line in wrap(long, 76, break_long_words=False, break_on_hyphens=False))
    return f"Template: {package.name}/{name}\nType: {kind}\n{choices}_Description: {short}{_mark(kind)}\n{text}"


def _mark(kind: str) -> str:
    return {"boolean": "?", "error": ""}.get(kind, ":")


def config(package: Package) -> str:
    """The `config` script: the table of the questions in front of what all packages share."""
    rows = []
    for question in package.questions:
        kind = f"{question.kind}?" if question.optional else question.kind
        default = "@url" if callable(question.default) else question.default or "-"
        rows.append(f"{question.name} {kind} {question.priority} {','.join(question.when) or '-'} {default}")
    head, _, rest = SHARED_CONFIG.read_text().partition("# QUESTIONS BEGIN\n")
    _, _, body = rest.partition("# QUESTIONS END\n")
    table = "\n".join(rows)
    values = f"package={package.name}\nprogram=/usr/bin/{package.program}\nquestions='{table}'\n"
    return head.replace("# MADE_BY", f"# {MADE_BY}") + values + body


def catalogue() -> str:
    """`templates.pot`: every text of the templates once, in order, with the places where it stands."""
    places: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for package in PACKAGES:
        for kind, text, line in _texts(package):
            places.setdefault(text, []).append(f"../{package.name}.templates:{line}")
            kinds.setdefault(text, kind)
    entries = [
        f"#. Type: {kinds[text]}\n#. Description\n" + "".join(f"#: {place}\n" for place in found) + _message(text)
        for text, found in places.items()
    ]
    return _POT_HEADER + "\n" + "\n".join(entries)


_POT_HEADER = """\
# Translators: copy this file to LANGUAGE.po, and send it back filled in.
msgid ""
msgstr ""
"Project-Id-Version: penguindome\\n"
"Report-Msgid-Bugs-To: penguindome@packages.debian.org\\n"
"Language: \\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"""


def _texts(package: Package) -> Iterator[tuple[str, str, int]]:
    """Type, text and line of all that is translated: po-debconf joins the lines of a paragraph with blanks."""
    kind, paragraph, start = "", "", 0
    for number, line in enumerate([*templates(package).splitlines(), ""], 1):
        if paragraph and not line.startswith(" "):
            yield kind, paragraph, start
            paragraph = ""
        if line.startswith("Type: "):
            kind = line.removeprefix("Type: ")
        elif line.startswith("_Description: "):
            yield kind, line.removeprefix("_Description: "), number
            start = number
        elif line.startswith(" "):
            paragraph = f"{paragraph} {line.strip()}".strip()


def _message(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if len(escaped) < 70:
        return f'msgid "{escaped}"\nmsgstr ""\n'
    lines = wrap(escaped, 75, break_long_words=False, break_on_hyphens=False, drop_whitespace=False)
    return 'msgid ""\n' + "".join(f'"{line}"\n' for line in lines) + 'msgstr ""\n'


def preseed(package: Package) -> str:
    """An example for `debconf-set-selections`, with every question at its default."""
    lines = [f"# Answers for {package.name}, for debconf-set-selections before it is installed.\n# {MADE_BY}\n"]
    for question in package.questions:
        kind = _TYPES.get(question.kind, "string")
        default = "https://penguindome.example.org:8443" if callable(question.default) else question.default
        when = f" (only with {', '.join(question.when)})" if question.when else ""
        lines.append(f"# {question.prompt}{when}\n")
        lines.append(f"#{package.name} {package.name}/{question.name} {kind} {default}".rstrip() + "\n")
    return "".join(lines)


def generated() -> Mapping[str, str]:
    """Every file that is made, by its path below debian/."""
    made: dict[str, str] = {"po/templates.pot": catalogue()}
    made["po/POTFILES.in"] = "".join(f"[type: gettext/rfc822deb] {package.name}.templates\n" for package in PACKAGES)
    makers: Mapping[str, Callable[[Package], str]] = {
        "{}.templates": templates,
        "{}.config": config,
        "preseed/{}.preseed": preseed,
        "{}.examples": lambda package: f"debian/preseed/{package.name}.preseed\n",
    }
    for package in PACKAGES:
        made |= {name.format(package.name): maker(package) for name, maker in makers.items()}
    return made


def main() -> int:
    """Write them all."""
    for name, text in generated().items():
        path = CHECKOUT / "debian" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith(".config"):
            path.chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main())
