"""`make lint`: all linters, two at a time; prints what each complains of, and fails when one does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
PROGRAMS = Path(sys.executable).parent
NO_SOURCES = {".git", ".venv", ".cache", "build", "dist", "node_modules", "__pycache__"}

LINTERS: dict[str, Sequence[str]] = {
    "mypy src plugins (Python 3.10)": ("mypy", "--python-version", "3.10", "src", "plugins"),
    "mypy server tools (Python 3.11)": ("mypy", "--python-version", "3.11", "server", "tools"),
    "ruff check": ("ruff", "check", "--quiet", "--output-format", "concise"),
    "ruff format": ("ruff", "format", "--check", "--quiet"),
    "import-linter": ("lint-imports", "--cache-dir", ".cache/imports"),
}


def shell_files(root: Path) -> Iterator[Path]:
    """Files that a shell runs, known by their name or their first line: which shell, or what shellcheck is to know."""
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in NO_SOURCES]
        for name in files:
            path = Path(directory) / name
            if path.suffix == ".sh" or (not path.is_symlink() and _starts_a_shell(path)):
                yield path


def _starts_a_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(80).split()
    if first[:2] == [b"#", b"shellcheck"]:
        return True
    return bool(first) and first[0].startswith(b"#!") and first[-1].rsplit(b"/")[-1] in {b"sh", b"bash", b"dash"}


def _run(command: Sequence[str]) -> tuple[int, str]:
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ.get('PATH', os.defpath)}", "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def main() -> int:
    """Run them all; 0 when none complains."""
    shells = sorted(str(path.relative_to(CHECKOUT)) for path in shell_files(CHECKOUT))
    linters = {**LINTERS, f"shellcheck ({len(shells)} files)": ("shellcheck", "--external-sources", *shells)}
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for name, (status, output) in zip(linters, pool.map(_run, linters.values()), strict=True):
            print(f"{'FAILED' if status else 'ok':6} {name}", flush=True)
            if status:
                print(output, flush=True)
            failed += bool(status)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
