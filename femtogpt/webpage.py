"""One page that needs nothing else: no file beside it, no network, which its own policy forbids.

webpage.html is the frame of every such page, webpage.css what their looks have in common.
"""

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template

HERE = Path(__file__).parent


def webpage(title, body, style, script):
    """The page's bytes, UTF-8. title: text; body: HTML; style, script: CSS and JavaScript, which
    alone may style and run: nothing within body can."""
    style = (HERE / "webpage.css").read_text("utf-8") + style
    page = Template((HERE / "webpage.html").read_text("utf-8")).substitute(
        title=escape(title), body=body, style=style, style_hash=csp_hash(style), script=script,
        script_hash=csp_hash(script))
    return page.encode("utf-8", "replace")  # a file's name may be no Unicode


def csp_hash(text):
    """An inline script's or style's name in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
