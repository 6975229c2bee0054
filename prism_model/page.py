"""One self-contained HTML page: pictures as data URIs, a few rules of CSS, nothing from outside."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

CSS = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --paper: #ffffff; --card: #f6f7f8; --line: #dcdfe3;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a3a9b1; --paper: #16181b; --card: #1f2226;
  --line: #353a40; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption { color: var(--soft); }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto; }
pre code { overflow-wrap: normal; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; }
tr.stressed td { font-weight: 650; }
figure { margin: 1.2rem 0 1.6rem; }
figure div { background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: .6rem; overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { font-size: .9rem; margin-top: .5rem; max-width: 56rem; }
"""


class Page:
    """A page that is built from its top to its end.

    Parameters
    ----------
    title
        Of the document, and its first heading.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, soft: bool = False) -> None:
        """Add a paragraph; what stands between backticks is set as code."""
        self.parts.append(f"<p{' class=soft' if soft else ''}>{_inline(text)}</p>")

    def tiles(self, tiles: Sequence[tuple[str, str]]) -> None:
        """Add figures with what they are: ``(value, meaning)``."""
        inside = "".join(
            f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(meaning)}</span></div>'
            for value, meaning in tiles
        )
        self.parts.append(f'<div class="tiles">{inside}</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], stressed: Sequence[int] = ()) -> None:
        """Add a table; numbers, and texts that are numbers, are set to the right.

        Parameters
        ----------
        columns
            The head.
        rows
            The cells; None is left empty.
        stressed
            Rows to set in bold.
        """
        numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(columns))]
        kind = [' class="number"' if n else "" for n in numeric]
        head = "".join(f"<th{k}>{html.escape(c)}</th>" for c, k in zip(columns, kind, strict=True))
        body = "".join(
            f"<tr{' class=stressed' if i in stressed else ''}>"
            + "".join(f"<td{k}>{'' if c is None else _inline(str(c))}</td>" for c, k in zip(row, kind, strict=True))
            + "</tr>"
            for i, row in enumerate(rows)
        )
        self.parts.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')

    def picture(self, path: Path, alt: str, caption: str, width: int | None = None) -> None:
        """Embed a PNG.

        Parameters
        ----------
        path
            Of the file.
        alt
            What a reader who cannot see it is told.
        caption
            Under it.
        width
            In CSS pixels; None for its own, up to the page's.
        """
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        size = f' style="width:{width}px"' if width else ""
        self.parts.append(
            f'<figure><div><img{size} alt="{html.escape(alt)}" src="data:image/png;base64,{data}"></div>'
            f"<figcaption>{_inline(caption)}</figcaption></figure>"
        )

    def commands(self, lines: Sequence[str]) -> None:
        """Add commands, one a line."""
        self.parts.append(f"<pre><code>{html.escape(chr(10).join(lines))}</code></pre>")

    def write(self, path: Path) -> None:
        """Write the page."""
        document = (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        )
        path.write_text(document + "\n".join(self.parts) + "\n</main>\n</body>\n</html>\n", encoding="utf-8")


def _inline(text: str) -> str:
    """Escape a text, and set what stands between backticks as code."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def _is_number(value: object) -> bool:
    try:
        float(str(value).replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True
