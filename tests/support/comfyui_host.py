"""A real ComfyUI process for the tests: started with a base folder of its own, driven over its HTTP and WebSocket API."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
import websocket
from filelock import FileLock

from tests.support.miniworld import MINIWORLD

ROOT = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-CARLoS"
_START_TIMEOUT_S = 180
_TEXT = 3
"""Of messages that are no JSON: those with a line of text for a node."""

_ENDS = ("execution_success", "execution_error", "execution_interrupted")


def comfyui_folder() -> Path | None:
    """The ComfyUI to test against: COMFYUI_DIR, else comfy-cli's default workspace, else the oldest version beside it."""
    named = os.environ.get("COMFYUI_DIR")
    places = [Path(named)] if named else [Path.home() / "comfy" / name for name in ("ComfyUI", "ComfyUI-0.3.64")]
    return next((folder for folder in places if (folder / "main.py").is_file()), None)


def comfyui_python(folder: Path) -> Path:
    """The interpreter that runs a ComfyUI: its own environment's, else ours."""
    own = folder / ".venv" / "bin" / "python"
    return own if own.is_file() else Path(sys.executable)


def install_requirements(folder: Path) -> None:
    """What ComfyUI Manager does with a pack: pip install -r requirements.txt, in ComfyUI's environment."""
    command = [comfyui_python(folder), "-m", "pip", "install", "-q", "-r", ROOT / "requirements.txt"]
    # Several runs of the tests side by side have one ComfyUI.
    with FileLock(Path(tempfile.gettempdir()) / "carlos-tests-install.lock"):
        subprocess.run(list(map(str, command)), check=True, timeout=1200)


def script_environment(folder: Path) -> dict[str, str]:
    """For a script that imports ComfyUI's code and ours: where both are. ComfyUI has a module `nodes`, too, and comes first."""
    places = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def run_script(folder: Path, script: Path, *arguments: object, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a script with a ComfyUI's Python in its folder. It must end well."""
    command = [str(part) for part in (comfyui_python(folder), script, *arguments)]
    environment = script_environment(folder)
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert run.returncode == 0, f"{run.stdout[-1000:]}\n{run.stderr[-3000:]}"
    return run


def make_base_folder(base: Path, *, with_pack: bool = True) -> Path:
    """A base folder with the mini-world in it: checkpoint, LoRAs, encoder, prompt sets, and this pack as a custom node."""
    for name in ("checkpoints", "loras", "carlos/encoders", "carlos/prompts"):
        (base / "models" / name).mkdir(parents=True, exist_ok=True)
    for name in ("custom_nodes", "input", "output", "user", "temp"):
        (base / name).mkdir(exist_ok=True)
    for lora in (MINIWORLD / "loras").glob("*.safetensors"):
        shutil.copy(lora, base / "models" / "loras")
    for name in ("mini_clip.json", "mini_clip.safetensors"):
        shutil.copy(MINIWORLD / name, base / "models" / "carlos" / "encoders")
    for name in ("index", "short", "signature"):
        shutil.copy(MINIWORLD / f"prompts_{name}.json", base / "models" / "carlos" / "prompts" / f"miniworld-{name}.json")
    if with_pack:
        (base / "custom_nodes" / PACK_NAME).symlink_to(ROOT)
    return base


def build_checkpoint(target: Path) -> Path:
    """The mini-world's full checkpoint, as ComfyUI's Load Checkpoint wants it."""
    subprocess.run([sys.executable, MINIWORLD / "build_checkpoint.py", target], check=True, timeout=300)
    return target


class Failed(Exception):
    """ComfyUI refused or aborted a workflow; the message is its own."""


class Host:
    """A running ComfyUI. `log` is the file with everything it printed."""

    def __init__(self, url: str, base: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.base = base
        self.log = log
        self.process = process

    def object_info(self) -> dict[str, Any]:
        return requests.get(f"{self.url}/object_info", timeout=60).json()

    def submit(self, workflow: dict[str, Any], client_id: str = "", **further: Any) -> str:
        """Queue a workflow. further: fields of the request, as a browser adds. Raises Failed with ComfyUI's reasons if it is
        not accepted."""
        request = {"prompt": workflow, "client_id": client_id, **further}
        answer = requests.post(f"{self.url}/prompt", json=request, timeout=60).json()
        if "prompt_id" not in answer or answer.get("node_errors"):
            raise Failed(json.dumps(answer))
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout_s: float = 900) -> dict[str, Any]:
        """The history entry of a workflow, once it has ended in whatever way."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            history = requests.get(f"{self.url}/history/{prompt_id}", timeout=60).json()
            if prompt_id in history and history[prompt_id]["status"].get("completed") is not None:
                return history[prompt_id]
            if self.process.poll() is not None:
                raise Failed(f"ComfyUI ended with {self.process.returncode}:\n{self.tail()}")
            time.sleep(0.1)
        raise Failed(f"not done after {timeout_s} s:\n{self.tail()}")

    def run(self, workflow: dict[str, Any], timeout_s: float = 900) -> dict[str, Any]:
        """Outputs by node id of a workflow that must succeed. Raises Failed with the node's error otherwise."""
        return self.outputs_of(self.wait(self.submit(workflow), timeout_s))

    def outputs_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Outputs by node id of a workflow's history entry. Raises Failed with the node's error."""
        if entry["status"]["status_str"] != "success":
            messages = [message for kind, message in entry["status"]["messages"] if kind == "execution_error"]
            raise Failed(messages[0]["exception_message"].strip() if messages else json.dumps(entry["status"]))
        return entry["outputs"]

    @contextmanager
    def events(self) -> Iterator[tuple[str, websocket.WebSocket]]:
        """A client id and the WebSocket on which ComfyUI talks to it."""
        client_id = uuid.uuid4().hex
        connection = websocket.create_connection(f"{self.url.replace('http', 'ws')}/ws?clientId={client_id}", timeout=120)
        try:
            yield client_id, connection
        finally:
            connection.close()

    def said(self, workflow: dict[str, Any]) -> dict[str, str]:
        """The last line of text that each node of a workflow shows on itself, by node id, once it has run."""
        lines: dict[str, str] = {}
        with self.events() as (client_id, connection):
            prompt_id = self.submit(workflow, client_id)
            while True:
                message = connection.recv()
                if isinstance(message, bytes):
                    kind, length = struct.unpack(">II", message[:8])
                    if kind == _TEXT:
                        lines[message[8 : 8 + length].decode()] = message[8 + length :].decode()
                    continue
                event = json.loads(message)
                if event["type"] in _ENDS:
                    self.outputs_of(self.wait(prompt_id))
                    return lines

    def interrupt(self) -> None:
        requests.post(f"{self.url}/interrupt", timeout=60).raise_for_status()

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a setting of the frontend for the default user: it holds for pages that are opened later."""
        requests.post(f"{self.url}/settings/{name}", json=value, timeout=60).raise_for_status()

    def forget(self) -> None:
        """Let go of results and models: what runs later is done again."""
        requests.post(f"{self.url}/free", json={"unload_models": True, "free_memory": True}, timeout=60).raise_for_status()
        # The wish is looked at between two prompts: a prompt that is posted at once may still find the old results.
        self.run(
            {
                "nothing": {"class_type": "PrimitiveInt", "inputs": {"value": 0}},
                "shown": {"class_type": "PreviewAny", "inputs": {"source": ["nothing", 0]}},
            }
        )

    def output_file(self, image: dict[str, str]) -> Path:
        return self.base / image["type"] / image["subfolder"] / image["filename"]

    @staticmethod
    def seconds_of(entry: dict[str, Any]) -> float:
        """How long a workflow ran, from its history entry: by ComfyUI's own clock."""
        times = {kind: message["timestamp"] for kind, message in entry["status"]["messages"]}
        return (times["execution_success"] - times["execution_start"]) / 1000

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _free_port() -> int:
    """A port that nobody listens on: none of those that systems give to who asks for any, and apart for each process of tests."""
    first = os.getpid() * 97
    for place in range(10_000):
        port = 20_000 + (first + place) % 10_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@contextmanager
def running(
    folder: Path, base: Path, *extra: str, environment: Mapping[str, str] | None = None, under: Sequence[str] = ()
) -> Iterator[Host]:
    """Start ComfyUI on the CPU on a free port, wait until it answers, stop it afterwards.

    environment: variables to add. under: a command that prepares something and becomes the command that follows it.
    """
    port = _free_port()
    log = base / "comfyui.log"
    command = [
        *under,
        str(comfyui_python(folder)),
        str(folder / "main.py"),
        "--cpu",
        "--port",
        str(port),
        "--base-directory",
        str(base),
    ]
    # Without this, all hosts of one ComfyUI share the database of its own user folder.
    command += ["--database-url", f"sqlite:///{base / 'comfyui.db'}", "--disable-auto-launch", *extra]
    # Nothing is fetched, also where there is a network.
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    variables = {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE", **offline}
    process_environment = {**os.environ, **variables, **(environment or {})}
    with log.open("ab") as sink:
        process = subprocess.Popen(command, cwd=folder, stdout=sink, stderr=subprocess.STDOUT, env=process_environment)
    host = Host(f"http://127.0.0.1:{port}", base, log, process)
    try:
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                answer = requests.get(f"{host.url}/system_stats", timeout=5)
                answer.raise_for_status()
                # Else another program has taken the port, and this one ends.
                if str(base) in answer.json()["system"]["argv"]:
                    break
                raise requests.RequestException("another host")
            except requests.RequestException:
                if process.poll() is not None or time.monotonic() > end:
                    raise Failed(f"ComfyUI did not start:\n{host.tail()}") from None
                time.sleep(0.2)
        yield host
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def not_offered(name: str, noun: str, value: str = "../x") -> str:
    """Pattern of the refusal of a combo's value: ours, or that of newer versions of ComfyUI, which check it before our node."""
    ours = rf"'{re.escape(value)}' is not in the list of {noun}s"
    return rf'{ours}|value_not_in_list.*"input_name": "{name}".*"received_value": "{re.escape(value)}"'


def facts_of(outputs: dict[str, Any], node: str) -> dict[str, Any]:
    """The JSON on the last line of a node's report."""
    return json.loads(outputs[node]["text"][0].splitlines()[-1])
