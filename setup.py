"""The package list only; everything else is in pyproject.toml. The folder shell/ installs as eventdb_shell."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["eventdb", "eventdb.*"]),
        "eventdb_shell",
        *("eventdb_shell." + package for package in find_packages("shell")),
    ]
)
