"""Hooks of MkDocs: pages that are made from the code, and links that leave the folder of the documentation."""

import shutil
from pathlib import Path

import command_pages
import recipe_table
import site_links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGES = ("detection", "segmentation", "depth", "tracking")
COPIED = ROOT / "build/docs_sources"  # named in mkdocs.yml


@event_priority(100)  # before mkdocstrings, which passes over a folder that does not exist yet
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the folder in which mkdocstrings finds the packages by the names that they are installed under."""
    package = COPIED / "pe_spatial"
    shutil.rmtree(COPIED, ignore_errors=True)
    # copies: mkdocstrings does not look into folders that are links
    for source, target in {"pe_spatial": package, **{name: package / name for name in PACKAGES}}.items():
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the site whose text lies elsewhere or is made from the code."""
    for source, uri in site_links.ROOT_PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text(encoding="utf-8")))
    for uri, content in command_pages.command_pages().items():
        files.append(File.generated(config, uri, content=content))
    documents = [*(ROOT / "docs").rglob("*.md"), *map(ROOT.joinpath, site_links.ROOT_PAGES)]
    for path in site_links.pictures_outside(ROOT, documents):
        files.append(File.generated(config, site_links.picture_uri(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Read Markdown as GitHub does, and turn links to files outside docs/ into links that work on the site."""
    sources = {uri: source for source, uri in site_links.ROOT_PAGES.items()}
    if recipe_table.MARK in markdown:
        markdown = markdown.replace(recipe_table.MARK, recipe_table.recipe_table())
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return site_links.rewritten(site_links.with_lists(markdown), source, page.file.src_uri, config.repo_url or "")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark where stylesheets/site.css may break the lines of commands and their output."""
    return site_links.with_breakable_code(html)
