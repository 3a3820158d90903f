#!/usr/bin/env python3
"""Checks that every crate of the lock file has a licence we may ship, and that heavy crates come in one version.

`deny.toml` says the same for cargo-deny, which also knows advisories but needs their database from the network; this
check needs nothing but cargo.
"""

import json
import subprocess
import sys
import tomllib

POLICY = tomllib.load(open("deny.toml", "rb"))
ALLOWED = set(POLICY["licenses"]["allow"])
ONE_VERSION = {"arrow-array", "parquet", "rusqlite", "libsqlite3-sys", "aws-sdk-s3", "rustls", "tokio", "iceberg"}


def allowed(expression: str) -> bool:
    """Whether an SPDX expression of OR, AND, WITH and parentheses can be satisfied by the allowed licences."""
    tokens = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ").split()

    def either(at):
        value, at = both(at)
        while at < len(tokens) and tokens[at] == "OR":
            right, at = both(at + 1)
            value = value or right
        return value, at

    def both(at):
        value, at = one(at)
        while at < len(tokens) and tokens[at] == "AND":
            right, at = one(at + 1)
            value = value and right
        return value, at

    def one(at):
        if tokens[at] == "(":
            value, at = either(at + 1)
            return value, at + 1
        name, at = tokens[at], at + 1
        if at < len(tokens) and tokens[at] == "WITH":
            name, at = f"{name} WITH {tokens[at + 1]}", at + 2
        return name in ALLOWED, at

    value, at = either(0)
    return value and at == len(tokens)


def main() -> int:
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--format-version", "1", "--locked"], check=True, capture_output=True, text=True
        ).stdout
    )
    problems, versions = [], {}
    for package in metadata["packages"]:
        name, version, licence = package["name"], package["version"], package.get("license")
        versions.setdefault(name, set()).add(version)
        if package["source"] is None:
            continue
        if not licence or not allowed(licence):
            problems.append(f"{name} {version}: licence {licence!r} isn't in deny.toml's list")
    for name in sorted(ONE_VERSION & versions.keys()):
        if len(versions[name]) > 1:
            problems.append(f"{name}: {len(versions[name])} versions in one lock: {', '.join(sorted(versions[name]))}")
    print("\n".join(problems) or f"{len(metadata['packages'])} crates, all licences allowed")
    return 1 if problems else 0


sys.exit(main())
