"""The site's hooks: pages that stand outside docs/, and links that work on GitHub and on the site alike.

MkDocs reads docs/ only. The README and its like are added under names of their own, and every relative link is followed
to the file that it means: a page of the site, or else the file in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
DOCS = "docs"
OUTSIDE = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "STYLE.md": "style.md",
    "CHANGELOG.md": "changes.md",
    "benchmarks/README.md": "benchmarks.md",
    "speech/README.md": "speech.md",
}
"""Files outside docs/ by what they are called on the site."""
_SHIM, _OWN_SHIM = "https://unpkg.com/iframe-worker/shim", "search-frame.js"
"""The theme fetches from elsewhere what lets search work in pages that are opened as files."""
_DIALOG = 'data-md-component="search" role="dialog"'
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Return MkDocs' files with those outside docs/ among them."""
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return a page whose links lead to pages of the site, or into the repository."""
    return with_links(markdown, page.file.src_uri, config.extra["repository"])


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Return a page that fetches nothing from elsewhere."""
    up = posixpath.relpath(".", posixpath.dirname(page.url) or ".")
    return _mended(output, f"{up}/{_OWN_SHIM}")


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """Return the page of what is not there, likewise."""
    return _mended(output, f"/{_OWN_SHIM}")


def _mended(output: str, shim: str) -> str:
    # The theme's dialog has no name, which screen readers would read out.
    named = output.replace(_DIALOG, f'{_DIALOG} aria-label="Search"')
    return named.replace(_SHIM, shim)


def with_links(markdown: str, page: str, repository: str) -> str:
    """Return a page's text with its relative links as the site needs them; code is left as it is."""
    at = next((path for path, name in OUTSIDE.items() if name == page), f"{DOCS}/{page}")
    pieces, last = [], 0
    for fence in _FENCE.finditer(markdown):
        pieces += [_linked(markdown[last : fence.start()], at, page, repository), fence[0]]
        last = fence.end()
    return "".join([*pieces, _linked(markdown[last:], at, page, repository)])


def _linked(text: str, at: str, page: str, repository: str) -> str:
    def followed(match: re.Match[str]) -> str:
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(at), match[1]))
        inside = meant.removeprefix(f"{DOCS}/") if meant.startswith(f"{DOCS}/") else OUTSIDE.get(meant)
        if inside is None:
            return f"{repository.rstrip('/')}/blob/main/{meant}"
        return posixpath.relpath(inside, posixpath.dirname(page) or ".") + (match[2] or "")

    return _LINK.sub(followed, text)
