"""Licences and words of authors."""

from pathlib import Path

import pytest
from nnrules.errors import UsageError

from nnrules_runtime.bundle.texts import MAX_TEXT_BYTES, printable, read_licence, read_text


@pytest.mark.parametrize(
    "name",
    [
        "MIT",
        "CC-BY-4.0",
        "Apache-2.0",
        "GPL-2.0-only WITH Classpath-exception-2.0",
        "MIT OR 0BSD",
        "LicenseRef-ours",
    ],
)
def test_spdx_expressions(name: str) -> None:
    licence = read_licence(name)
    assert (licence.spdx, licence.text) == (name, f"SPDX-License-Identifier: {name}\n")


@pytest.mark.parametrize(
    "name", ["", "LICENSE.txt", "licence", "docs/LICENSE", "MIT or so", "CC BY", "MIT AND", "-MIT", "MIT\n"]
)
def test_what_is_no_licence(name: str) -> None:
    with pytest.raises(UsageError, match=r"neither a file nor an SPDX"):
        read_licence(name)


def test_the_text_of_a_licence(tmp_path: Path) -> None:
    path = tmp_path / "LICENSE"
    path.write_bytes("\ufeffUse it.\r\nOr not.\n\n\n".encode())
    licence = read_licence(path)
    assert (licence.spdx, licence.text) == (None, "Use it.\nOr not.\n")
    path.write_text("SPDX-License-Identifier: CC0-1.0\n")
    assert read_licence(str(path)).spdx == "CC0-1.0"
    path.write_text("SPDX-License-Identifier: all rights reserved\n")
    assert read_licence(path).spdx is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xff\xfe", "no UTF-8"),
        (b"a\0b", "zeros"),
        (b"a" * (MAX_TEXT_BYTES + 1), "more than"),
        (None, "--card"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "card.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=text):
        read_text(path, "--card")


def test_a_terminal_is_not_steered() -> None:
    assert (
        printable("line\n\tü × – \x1b[2J\x07\x9b\u202eabc\r")
        == "line\n\tü × – \ufffd[2J\ufffd\ufffd\ufffdabc\ufffd"
    )
