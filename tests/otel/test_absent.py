"""Who does not ask for it has nothing of it."""

from __future__ import annotations

import ast
import subprocess
import sys

WITHOUT = "import sys; sys.modules['opentelemetry'] = None; "


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


def test_slipstream_itself_does_not_import_it() -> None:
    modules = (
        "slipstream, slipstream.replica, slipstream.coordination, slipstream.stores.nats, slipstream.stores.memory"
    )
    done = run(f"import sys, {modules}; print(sorted(sys.modules))")
    loaded: list[str] = ast.literal_eval(done.stdout)
    assert "slipstream.stores.nats" in loaded
    assert [name for name in loaded if name.partition(".")[0] == "opentelemetry" or name == "slipstream.otel"] == []


def test_it_imports_no_backend_and_no_sdk() -> None:
    done = run("import sys, slipstream.otel; print(sorted(sys.modules))")
    loaded: list[str] = ast.literal_eval(done.stdout)
    foreign = ("nats", "sqlite3", "opentelemetry.sdk", "slipstream.stores", "slipstream.replica", "slipstream.testing")
    assert [name for name in loaded if name.startswith(foreign)] == []


def test_without_the_extra_everything_else_works() -> None:
    done = run(f"{WITHOUT} import slipstream; slipstream.connect('memory://'); slipstream.Replica; slipstream.Lease")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_extra_it_says_what_to_install() -> None:
    done = run(f"{WITHOUT} import slipstream.otel")
    assert done.returncode == 1
    assert "pip install 'slipstream-kv[otel]'" in done.stderr
