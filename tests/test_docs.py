from __future__ import annotations

import ast
import io
import re
import tokenize
from importlib.util import find_spec
from pathlib import Path

import pytest

import redis_integration
from redis_integration.policy import decide

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
]


def table(text):
    """The rows of the first table after the heading that has the columns of the policy."""
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\s*\| (up|shy|down) \|", line)
    ]


def exists(name):
    """Whether the package exports this name, or has a module of this name."""
    return hasattr(redis_integration, name) or find_spec(f"redis_integration.{name}") is not None


@pytest.mark.parametrize("block", BLOCKS)
def test_code_in_the_docs_compiles(block):
    """Every Python block is Python, and every name it imports from the package exists."""
    tree = ast.parse(block)

    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "redis_integration"
        for alias in node.names
    }
    assert {name for name in imported if not exists(name)} == set()


def test_policy_in_the_readme_is_the_policy():
    """The table of the README is the table of policy.decide, which is tested row by row."""
    assert table((ROOT / "README.md").read_text()) == table(decide.__doc__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    """A relative link names a file that exists."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def code_lines(text):
    """How many lines hold code: neither blank, nor only a comment or a docstring."""
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [each for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type not in no_code]
    lines = {line for each in tokens for line in range(each.start[0], each.end[0] + 1)}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    described = [
        node.body[0] for node in ast.walk(ast.parse(text)) if isinstance(node, documented) and ast.get_docstring(node)
    ]
    return len(lines - {line for node in described for line in range(node.lineno, node.end_lineno + 1)})


def test_the_package_stays_small():
    """The package has less than 10,750 lines of code, and no file more than 300 lines of any kind."""
    texts = {
        str(path.relative_to(ROOT)): path.read_text()
        for path in (ROOT / "redis_integration").rglob("*.py")
        if "migrations" not in path.parts
    }

    assert sum(map(code_lines, texts.values())) < 10750
    assert {name: len(text.splitlines()) for name, text in texts.items() if len(text.splitlines()) > 300} == {}


def test_the_fakeredis_example_of_the_testing_page_passes():
    """The page's own test, run as it stands there."""
    page = (ROOT / "docs" / "testing.md").read_text()
    block = next(
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "import fakeredis" in block
    )
    namespace = {}

    exec(block, namespace)

    namespace["test_visits_are_counted"]()
