"""What runs elsewhere: workflows, Dependabot and the citation are what they must be."""

import re
import tomllib
from datetime import date

import pytest
import yaml

from tools.notebooks import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMMANDS = re.compile(r"\b(?:bash|make) (\S+)")


def read(path):
    """YAML as GitHub reads it: `on` is a word, not a truth value."""
    found = yaml.safe_load(path.read_text("utf-8"))
    return {("on" if key is True else key): value for key, value in found.items()}


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_and_ends_in_time(path):
    workflow = read(path)
    assert {"name", "on", "jobs"} <= set(workflow)
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_major_version(path):
    used = [step["uses"] for step in steps(read(path)) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_what_the_repository_has(path):
    targets = re.findall(r"^([\w$().]+):", (ROOT / "Makefile").read_text(), re.M)
    targets += [".venv/.ready", ".venv/.test-ready"]  # as the Makefile spells them out
    called = COMMANDS.findall(
        "\n".join(step.get("run", "") for step in steps(read(path)))
    )
    assert called
    for name in called:
        assert name in targets or (ROOT / name).is_file(), name


def test_every_push_runs_what_the_repository_calls_ci():
    ci = read(ROOT / ".github" / "workflows" / "ci.yml")
    assert {"push", "pull_request"} <= set(ci["on"])
    assert [step["run"] for step in steps(ci) if "run" in step][-1] == "bash .ci/run"


def test_each_month_every_python_and_system_is_tried():
    monthly = read(ROOT / ".github" / "workflows" / "monthly.yml")
    assert {"schedule", "workflow_dispatch"} <= set(monthly["on"])
    minute, hour, day, month, weekday = monthly["on"]["schedule"][0]["cron"].split()
    assert day.isdigit() and (month, weekday) == ("*", "*") and hour + minute
    (job,) = monthly["jobs"].values()
    assert job["strategy"]["matrix"] == {
        "python": ["3.11", "3.12", "3.13"],
        "os": ["ubuntu-latest", "macos-latest"],
        "torch": ["pinned", "latest"],
    }
    assert job["strategy"]["fail-fast"] is False
    assert "--nbval-lax" in steps(monthly)[-1]["run"]


def test_the_pins_that_a_workflow_loosens_are_there():
    assert re.search(r"^torch==", (ROOT / "requirements.txt").read_text(), re.M)
    assert re.search(r'^ *"triton==.*",', (ROOT / "pyproject.toml").read_text(), re.M)


def test_dependabot_leaves_alone_what_outputs_depend_on():
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    assert [one["package-ecosystem"] for one in updates] == ["pip", "github-actions"]
    assert all(one["schedule"] == {"interval": "monthly"} for one in updates)
    ignored = {one["dependency-name"] for one in updates[0]["ignore"]}
    assert {"torch", "triton", "sympy"} <= ignored


def test_the_citation_is_complete_and_of_this_version():
    cited = read(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["version"] == project["version"]
    assert cited["license"] == "MIT" and "MIT License" in (ROOT / "LICENSE").read_text()
    assert date.fromisoformat(cited["date-released"])
    assert cited["authors"] and all("name" in who for who in cited["authors"])
    assert len(cited["keywords"]) > 3 and len(cited["abstract"]) > 100
    assert cited["title"] == read(ROOT / "_config.yml")["title"]


def test_the_changelog_tells_of_this_version():
    version = read(ROOT / "CITATION.cff")["version"]
    released = read(ROOT / "CITATION.cff")["date-released"]
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{version}] - {released}" in text
    assert text.index("## [Unreleased]") < text.index(f"## [{version}]")
