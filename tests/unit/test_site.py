"""The hooks of the site, without mkdocs, which only `make docs` installs and which builds it all."""

from __future__ import annotations

import hashlib
import importlib.util
from types import ModuleType, SimpleNamespace

import pytest

from tests.support import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", DOCS / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(place: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=place, dest_uri=place.replace(".md", ".html")))


def test_the_navigation_has_every_page_once_in_the_order_of_the_index(hooks: ModuleType) -> None:
    nav = hooks.on_config({})["nav"]
    pages = [one for section in nav for value in section.values() for one in ([value] if type(value) is str else value)]
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(pages) == sorted({*written, *hooks.OUTSIDE.values()})
    assert pages.index("how-to/publish-in-transactions.md") < pages.index("how-to/deploy.md")


def test_a_page_says_its_kind_below_its_title(hooks: ModuleType) -> None:
    shown = hooks.on_page_markdown("# Flask\n\nText.\n", page("how-to/flask.md"), None, None)
    assert shown == "# Flask\n\n<small>How to</small>\n\nText.\n"


def test_pictures_and_links_of_the_readme_lead_into_the_site(hooks: ModuleType) -> None:
    text = '<img src="docs/images/a.png"> [how](docs/how-to/flask.md#limits) [test](tests/unit/test_site.py)'
    shown = hooks.on_page_markdown(text, page("readme.md"), None, None)
    assert shown == '<img src="images/a.png"> [how](how-to/flask.md#limits) test (`tests/unit/test_site.py`)'


def test_diagrams_are_drawn_by_a_script_of_the_site(hooks: ModuleType) -> None:
    shown = hooks.on_post_page('<head></head><pre class="mermaid">', page("explanation/states.md"), None)
    assert '<script src="../javascripts/mermaid.min.js"></script>' in shown
    plain = "<head></head><p>"
    assert hooks.on_post_page(plain, page("explanation/rpc.md"), None) == plain


def test_the_script_is_the_one_that_npm_has() -> None:
    script = (DOCS / "javascripts" / "mermaid.min.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() == "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
