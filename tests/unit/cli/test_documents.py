"""What docs/agents.md and docs/command-line.md say of commands, keys and exit statuses is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from carlos_core.cli import codes
from carlos_core.cli.app import app
from carlos_core.cli.commands import load

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_documents_name_all_commands_and_only_these() -> None:
    load()
    names = {command.name for command in app.registered_commands}
    table = re.findall(r"^\| `([a-z-]+)[ `]", (DOCS / "command-line.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) == names


def test_the_documents_name_all_exit_statuses() -> None:
    statuses = {value for name, value in vars(codes).items() if name.isupper()}
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "agents.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(row) for row in rows} == statuses


def test_the_workflow_for_agents_is_in_the_form_of_the_api() -> None:
    workflow = json.loads((DOCS / "agents" / "choose_loras_api.json").read_text(encoding="utf-8"))
    assert all(set(node) == {"class_type", "inputs"} for node in workflow.values())
