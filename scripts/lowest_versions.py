"""Prints the lowest versions that pyproject.toml allows of all packages but lmms-eval's, as requirements for pip."""

import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement  # a fresh environment has pip and nothing else
from pip._vendor.packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = PROJECT["optional-dependencies"]
lowest: dict[str, str] = {}
for line in [*PROJECT["dependencies"], *extras["demo"], *extras["gpus"], *extras["dev"]]:
    requirement = Requirement(line)
    bound = next(part.version for part in requirement.specifier if part.operator in (">=", "=="))
    lowest[requirement.name] = max(lowest.get(requirement.name, bound), bound, key=Version)
print("\n".join(f"{name}=={version}" for name, version in lowest.items()))
