"""`make audit`: known vulnerabilities of the locked packages, and direct dependencies that nobody maintains.

Asks the database of Python advisories (by pip-audit, which uv runs in an environment of its own) and the package index.
Exit code 0: nothing found; 1: something was found; 2: it could not be checked, for example without a network.
"""

import datetime
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = str(ROOT / "scripts" / "uv.sh")
PIP_AUDIT = "pip-audit==2.10.1"
OLD_YEARS = 3
"""A package without a release in this time counts as abandoned."""
REASON = "last release"
"""Words with which a comment in pyproject.toml says that a package is old, and why it is kept."""


def uv(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([UV, *arguments], cwd=ROOT, input=text, capture_output=True, text=True, check=False)


def vulnerabilities() -> int:
    """Print the advisories about the versions in requirements.lock."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ("--requirement", "requirements.lock", "--no-deps", "--disable-pip", "--progress-spinner", "off")
        done = uv("tool", "run", PIP_AUDIT, *options, "--format", "json", "--output", str(report))
        if not report.exists() or not report.read_text().strip():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            print(f"NOT CHECKED for vulnerabilities: the advisories could not be read ({last})", file=sys.stderr)
            return 2
        found = json.loads(report.read_text())["dependencies"]
    bad = [(package, advisory) for package in found for advisory in package.get("vulns", [])]
    for package, advisory in bad:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    skipped = [package["name"] for package in found if "skip_reason" in package]
    print(f"{len(found) - len(skipped)} of {len(found)} locked packages checked: {len(bad)} known vulnerabilities")
    if skipped:
        print(f"NOT CHECKED for vulnerabilities: no answer about {', '.join(skipped)}", file=sys.stderr)
    return 1 if bad else 2 if skipped else 0


def direct() -> dict[str, str]:
    """Name of each direct dependency -> its line in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(text)
    wanted = [*settings["project"]["dependencies"], *settings["dependency-groups"]["dev"]]
    lines = text.splitlines()
    return {
        re.split(r"[^A-Za-z0-9._-]", need)[0].lower(): next(line for line in lines if f'"{need}"' in line)
        for need in wanted
    }


class NoVersionError(Exception):
    """The index answered, and has no version of a package."""


def newest(names: list[str], *options: str) -> dict[str, str]:
    """The newest version of each package. Raises NoVersionError, or OSError if the index cannot be asked."""
    done = uv("pip", "compile", "-", "--no-deps", "--no-header", "--no-annotate", *options, text="\n".join(names))
    if done.returncode != 0 and "No solution found" in done.stderr:
        raise NoVersionError((done.stderr.strip().splitlines())[-1])
    if done.returncode != 0:
        raise OSError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", done.stdout, re.MULTILINE))


def abandoned() -> int:
    """Print the direct dependencies without a release in OLD_YEARS years and without a stated reason."""
    needs = direct()
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=365 * OLD_YEARS)
    try:
        now = newest(sorted(needs))
        # A package that did not exist then is new; uv refuses a list with one, so each is asked for alone.
        old = {}
        for name in needs:
            try:
                old |= newest([name], "--exclude-newer", then.strftime("%Y-%m-%dT%H:%M:%SZ"))
            except NoVersionError:
                continue
    except (OSError, NoVersionError) as error:
        print(f"NOT CHECKED for abandoned packages: the package index could not be asked ({error})", file=sys.stderr)
        return 2
    stale = [name for name, line in needs.items() if name in now and old.get(name) == now[name]]
    unexplained = [name for name in stale if REASON not in needs[name]]
    for name in stale:
        said = needs[name].partition("#")[2].strip() if name not in unexplained else "no reason in pyproject.toml"
        print(f"{name} {now[name]}: no release in {OLD_YEARS} years: {said}")
    print(f"{len(needs)} direct dependencies: {len(unexplained)} abandoned without a reason")
    return 1 if unexplained else 0


if __name__ == "__main__":
    raise SystemExit(max(vulnerabilities(), abandoned()))
