"""The house rules that a machine can check: import order, module sizes, and READMEs that point at what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each layer may import from itself and from those before it.
LAYERS = [{"errors", "files", "log", "config", "lr_schedule", "machine", "overrides", "recipe_rules"},
          {"backend", "collectives", "control", "data", "launch", "ops", "ranks"}, {"networks", "losses"},
          {"checkpoint", "metrics", "report"}, {"inference"}, {"training", "arguments"}, {"benchmark", "serve"}]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted((ROOT / "src").rglob("*.py"))


def layer_of(path: Path) -> str:
    first = path.relative_to(ROOT / "src").parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != ROOT / "src" or path.stem != "__init__"],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = LEVEL[layer_of(path)]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "src" else [f"src.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("src."):
                assert LEVEL[name.split(".")[1]] <= own, f"{path.name} imports {name}, which is above it"


def test_modules_and_entry_scripts_stay_small():
    def lines(path):
        return len(path.read_text(encoding="utf-8").splitlines())

    sources = [path for kind in ("py", "cc", "h", "js", "css") for folder in ("src", "ascend310_infer")
               for path in (ROOT / folder).rglob(f"*.{kind}") if "build" not in path.relative_to(ROOT).parts]
    assert len(sources) > len(MODULES)
    assert {path.name: lines(path) for path in sources if lines(path) > 350} == {}
    assert {path.name: lines(path) for path in ROOT.glob("*.py") if lines(path) > 80} == {}


@pytest.mark.parametrize("name", ["README.md", "README_CN.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"@[A-Z_]+@", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_both_readmes_show_the_same_commands_and_figures():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_CN.md"))
    for pattern in (r"`[^`\n]*\.sh[^`\n]*`", r"dice=[\d.]+ hausdorff=[\d.]+ seconds=\d+", r"`benchmarks/[^`]+`"):
        found = sorted(set(re.findall(pattern, english)))
        assert found == sorted(set(re.findall(pattern, chinese)))
        assert found
