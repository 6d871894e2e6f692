"""The environment of a child, built from nothing: what is not named here or by the caller does not reach an agent.

Never reads the environment of this process; the caller passes it in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


def child_env(
    base_env: Mapping[str, str],
    *,
    mark: str,
    shard: str = "",
    pass_env: Collection[str] = (),
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Build the environment of a child from nothing.

    Args:
        base_env: Hive's own environment; taken from it are PATH, HOME, LANG, TMPDIR, USER, the names in `pass_env`,
            and the library path as it was before the single binary changed it.
        pass_env: Names taken over as well; absent ones are left out.
        mark: Value of ``HIVE_RUN_ID``; by it everything the child starts is found again.
        shard: Value of ``HIVE_SHARD``; empty: none.
        extra: Added last; cannot change the mark or the shard.
    """
    names = ("PATH", "HOME", "LANG", "TMPDIR", "USER", *pass_env)
    env = {name: base_env[name] for name in names if name in base_env and not _of_binary(name)}
    env["TERM"] = "dumb"
    env.update(_library_paths(base_env))
    env.update(extra or {})
    env["HIVE_RUN_ID"] = mark
    env.pop("HIVE_SHARD", None)
    if shard:
        env["HIVE_SHARD"] = shard
    return env


def secrets_of(base_env: Mapping[str, str], names: Collection[str]) -> tuple[str, ...]:
    """Return the values of variables handed to a child that must not appear in what is told of it."""
    return tuple(base_env[name] for name in names if base_env.get(name))


def _of_binary(name: str) -> bool:
    return name.startswith(("_PYI_", "_MEI")) or name in _LIBRARY_PATHS


_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def _library_paths(base_env: Mapping[str, str]) -> dict[str, str]:
    """Return the library paths a child should see.

    Source: PyInstaller 6's boot loader puts its own directory first and keeps the original, if any, in ``..._ORIG``.
    """
    frozen = any(name.startswith(("_PYI_", "_MEI")) for name in base_env)
    suffix = "_ORIG" if frozen else ""
    return {name: base_env[name + suffix] for name in _LIBRARY_PATHS if name + suffix in base_env}
