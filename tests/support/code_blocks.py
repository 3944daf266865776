"""The labelled code blocks of the documents, and how tests run them."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    *("*.md", "docs/**/*.md", "services/*/README.md", "charts/*/README.md"),
    *("bench/README.md", "k8s/*.md", "tests/*.md", "tests/e2e/*.md"),
)
LABELS = {
    "sh": "a shell script that a test runs",
    "sql": "SQL that a test runs",
    "python": "a Python script that a test runs, or compiles if it needs other packages",
    "cpp": "a program for a device",
    "console": "commands that need a cluster or servers of the reader",
    "text": "output, or a drawing",
    "yaml": "values of the chart",
    "mermaid": "a diagram",
}
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced code block."""

    document: str
    line: int
    label: str
    text: str

    @property
    def place(self) -> str:
        """File and line, for messages and test names."""
        return f"{self.document}:{self.line}"


def code_blocks(*labels: str) -> list[CodeBlock]:
    """Return the blocks of all documents that have one of `labels`. Without labels, return all."""
    found = []
    for path in sorted({path for pattern in DOCUMENTS for path in ROOT.glob(pattern)}):
        text = path.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            name = str(path.relative_to(ROOT))
            lines = block[3].splitlines(keepends=True)
            text_of_block = "".join(each.removeprefix(block[1]) for each in lines)
            found.append(CodeBlock(name, line, block[2], text_of_block))
    return [block for block in found if not labels or block.label in labels]


def run_script(
    script: str,
    directory: Path,
    environment: Mapping[str, str],
    *,
    place: str = "",
    typed: str | None = None,
) -> str:
    """Run a script of a document in bash, and return its output. Fail the test if it fails.

    The message of the failure begins with `place`, or with the script if `place` is empty. `typed`
    is the text that the reader types, such as passwords.
    """
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=environment,
        input=typed,
        start_new_session=typed is not None,  # psql reads passwords from the terminal if it has one
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{place or script}\n{done.stdout}\n{done.stderr}"
    return done.stdout
