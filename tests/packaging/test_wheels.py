"""The distributions as users get them: what the wheels hold, and what installs from where."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from support.packages import PACKAGES, ROOT, pip, run
from support.sqs import SQSBroker

pytestmark = pytest.mark.packaging

DISTRIBUTIONS = sorted(name.replace("_", "-") for name in PACKAGES)


def project(directory: Path) -> dict[str, Any]:
    """Return the [project] table of a directory's pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return table


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_the_typed_package_and_no_tests(wheels: dict[str, Path], package: str) -> None:
    """A wheel has its package, the typing marker and the license, and nothing of the tests."""
    names = set(zipfile.ZipFile(wheels[package]).namelist())
    assert {f"{package}/__init__.py", f"{package}/py.typed"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if re.search(r"(^|/)(tests?|conftest\.py|test_[^/]*\.py)(/|$)", name)]
    allowed = {package, "QBridge"} if package == "qbridge_core" else {package}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == allowed


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_each_file_of_the_package(wheels: dict[str, Path], package: str) -> None:
    """What lies below the package in the tree is in its wheel: sub-packages, and what they read (Lua scripts)."""
    source = ROOT / package / "src"
    names = set(zipfile.ZipFile(wheels[package]).namelist())
    files = {str(path.relative_to(source)) for path in (source / package).rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= names


@pytest.mark.parametrize(("package", "schemes"), PACKAGES.items())
def test_wheel_declares_one_entry_point_for_each_scheme(
    wheels: dict[str, Path], package: str, schemes: list[str]
) -> None:
    """Every scheme of a backend names the plugin module, and that module is in the wheel."""
    archive = zipfile.ZipFile(wheels[package])
    parser = ConfigParser()
    for name in archive.namelist():
        if name.endswith(".dist-info/entry_points.txt"):
            parser.read_string(archive.read(name).decode())
    declared = dict(parser["qbridge"]) if parser.has_section("qbridge") else {}
    assert declared == dict.fromkeys(schemes, f"{package}.plugin")
    assert not schemes or f"{package}/plugin.py" in archive.namelist()


def test_what_the_core_alone_says_of_a_backend_installs_it(wheels: dict[str, Path], clean_python: Path) -> None:
    """With the core alone, a URL ends in an error whose command, typed as it stands, brings the backend."""
    pip("install", "--quiet", wheels["qbridge_core"], python=clean_python)
    program = (
        "from qbridge_core import connect\n"
        "try:\n"
        "    print(connect('memory://').connected)\n"
        "except Exception as exc:\n"
        "    print(exc)\n"
    )
    message = run(clean_python, "-I", "-c", program)
    found = re.search(r"run: (pip install --find-links) dist (.*) where dist", message)
    assert found, message
    words = [*shlex.split(found[1])[1:], str(wheels["qbridge_core"].parent), *shlex.split(found[2])]
    pip(*words, python=clean_python)
    assert run(clean_python, "-I", "-c", program) == "True"


def test_core_with_redis_needs_nothing_else(wheels: dict[str, Path], clean_python: Path) -> None:
    """The core and the Redis backend work together without the other backends."""
    pip("install", "--quiet", wheels["qbridge_core"], wheels["qbridge_redis"], python=clean_python)
    program = (
        "import importlib.util, qbridge_core, qbridge_redis, qbridge_redis.plugin\n"
        "print([name for name in ('pika', 'pytest', 'qbridge_rabbitmq') if importlib.util.find_spec(name)])"
    )
    assert run(clean_python, "-I", "-c", program) == "[]"


def test_the_extra_kombu_runs_tasks_from_a_folder_and_from_sqs(
    wheels: dict[str, Path], clean_python: Path, tmp_path: Path, sqs_server: SQSBroker
) -> None:
    """`qbridge-core[kombu]` brings kombu, boto3 and what those need, and no other backend."""
    folder = wheels["qbridge_core"].parent
    pip("install", "--quiet", "--find-links", folder, "qbridge-core[kombu]", python=clean_python)
    program = (
        "import importlib.util\n"
        "from qbridge_core import Outcome, TaskManager, connect\n"
        "def handler(payload):\n"
        "    if payload == 'bad':\n"
        "        raise ValueError\n"
        f"for url in ('kombu+filesystem://{tmp_path}/queues?allow_loss=true', '{sqs_server.url}?wait_time=1'):\n"
        "    with connect(url) as client:\n"
        "        client.declare('jobs', 'dead')\n"
        "        client.send_many('jobs', [1, 2, 3, 'bad'])\n"
        "        client.publish('jobs', b'no task')\n"
        "        report = TaskManager(client, handler, 'jobs', 'dead', max_retries=1).run_until_idle(60)\n"
        "        print(report.succeeded, report.retried, report[Outcome.MALFORMED], client.stats('dead').ready)\n"
        "print([name for name in ('pika', 'redis', 'sqlalchemy', 'pycurl') if importlib.util.find_spec(name)])"
    )
    assert run(clean_python, "-I", "-c", program).splitlines() == ["3 1 1 2", "3 1 1 2", "[]"]


def test_the_extra_pytest_brings_the_fixture(wheels: dict[str, Path], clean_python: Path, tmp_path: Path) -> None:
    """`qbridge-core[pytest]` is all that a test in virtual time needs."""
    folder = wheels["qbridge_core"].parent
    pip("install", "--quiet", "--find-links", folder, "qbridge-core[pytest]", python=clean_python)
    test = "def test_it(qbridge):\n    qbridge.manager(str, 'q', 'd')\n    assert qbridge.run().succeeded == 0\n"
    (tmp_path / "test_it.py").write_text(test)
    assert "1 passed" in run(clean_python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)


def test_the_root_installs_all_and_leaves_no_pointer_behind(clean_python: Path) -> None:
    """`pip install .` brings the packages of all distributions, and no requirement that names a folder."""
    pip("install", "--quiet", ROOT, python=clean_python)
    program = (
        "from importlib.metadata import distributions\n"
        "import qbridge_core, qbridge_rabbitmq, qbridge_redis, qbridge_memory, qbridge_kombu, qbridge_pytest\n"
        "print([r for d in distributions() for r in d.requires or () if '@' in r])\n"
        "print(sorted(qbridge_core.backends()))\n"
    )
    requirements, schemes = run(clean_python, "-I", "-c", program).splitlines()
    assert requirements == "[]"
    assert schemes == str(sorted(scheme for schemes in PACKAGES.values() for scheme in schemes))


def test_the_root_is_removed_by_its_name(clean_python: Path) -> None:
    """`pip uninstall` of the root's name leaves nothing of QBridge."""
    pip("install", "--quiet", "--no-deps", ROOT, python=clean_python)
    pip("uninstall", "--quiet", "--yes", project(ROOT)["name"], python=clean_python)
    (site,) = (clean_python.parent.parent / "lib").glob("python*/site-packages")
    assert not [path.name for path in site.iterdir() if "qbridge" in path.name.lower()]


def test_the_root_has_a_name_that_is_never_published() -> None:
    """The root is not called `qbridge`, which is somebody else's on PyPI, and PyPI would refuse it."""
    root = project(ROOT)
    assert root["name"] not in {"qbridge", *DISTRIBUTIONS}
    assert "Private :: Do Not Upload" in root["classifiers"]


def test_the_root_needs_and_announces_what_its_parts_do() -> None:
    """Requirements and entry points of the root are those of the distributions together."""
    parts = [project(ROOT / name) for name in PACKAGES]
    plugin = project(ROOT / "qbridge_pytest")
    needed = {need for part in parts for need in part["dependencies"] if not need.startswith(("qbridge", "pytest"))}
    announced = {k: v for part in parts for k, v in part.get("entry-points", {}).get("qbridge", {}).items()}
    root = project(ROOT)
    assert set(root["dependencies"]) == needed
    assert root["entry-points"]["qbridge"] == announced
    assert root["entry-points"]["pytest11"] == plugin["entry-points"]["pytest11"]
    assert root["optional-dependencies"]["testing"] == parts[0]["optional-dependencies"]["testing"]
    assert set(root["optional-dependencies"]["pytest"]) < set(plugin["dependencies"])


def test_all_claim_the_same_pythons() -> None:
    """Each distribution claims the same versions of Python, those that are tested."""

    def claims(part: dict[str, Any]) -> list[str]:
        return [name for name in part["classifiers"] if name.startswith("Programming Language :: Python :: 3.")]

    parts = [project(ROOT / name) for name in PACKAGES]
    assert len({(part["requires-python"], *claims(part)) for part in parts}) == 1
    assert claims(parts[0])


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_extras_install_from_wheels_in_a_folder(wheels: dict[str, Path], clean_python: Path, installer: str) -> None:
    """`--find-links` with the folder of the wheels is enough for `qbridge-core[rabbitmq]`, for pip and for uv."""
    arguments = ("--quiet", "--find-links", wheels["qbridge_core"].parent, "qbridge-core[rabbitmq]")
    if installer == "pip":
        pip("install", *arguments, python=clean_python)
    else:
        run(sys.executable, "-m", "uv", "pip", "install", "--python", clean_python, *arguments)
    program = "import qbridge_core; print(*sorted(qbridge_core.backends()))"
    assert run(clean_python, "-I", "-c", program) == "amqp amqps"


def test_all_versions_are_equal() -> None:
    """The root, the distributions and `qbridge_core.__version__` have one version."""
    import qbridge_core

    versions = {where.name: project(where)["version"] for where in (ROOT, *(ROOT / name for name in PACKAGES))}
    assert set(versions.values()) == {qbridge_core.__version__}, versions


def test_backends_ask_for_this_version_of_the_core() -> None:
    """Each backend depends on a range of the core that starts with the current minor version."""
    major, minor, _ = project(ROOT)["version"].split(".")
    expected = f"qbridge-core>={major}.{minor},<{major}.{int(minor) + 1}"
    for package in PACKAGES:
        if package != "qbridge_core":
            assert expected in project(ROOT / package)["dependencies"], package


def test_licenses_are_equal() -> None:
    """Each distribution carries the license of the repository."""
    assert {(ROOT / name / "LICENSE").read_text() for name in PACKAGES} == {(ROOT / "LICENSE").read_text()}


def test_importing_the_core_imports_no_driver_and_no_test_runner() -> None:
    """`import qbridge_core` leaves pytest, the drivers and the backends out of the process."""
    program = (
        "import sys, qbridge_core\n"
        "heavy = {'pytest', 'pika', 'redis', 'kombu'}\n"
        "heavy |= {'qbridge_rabbitmq', 'qbridge_redis', 'qbridge_memory', 'qbridge_kombu', 'qbridge_pytest'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run(sys.executable, "-I", "-c", program) == "[]"
