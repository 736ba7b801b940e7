"""`cskd-bench methods`: list the methods, or show one with its settings, equation and source."""

import argparse
import json
import sys
from typing import Any

from cskd_bench.errors import UserError
from cskd_bench.verbs.common import Verbs


def add(verbs: Verbs) -> None:
    """Describe the verb."""
    verb = verbs.add_parser("methods", help="list or show pretraining methods")
    verb.add_argument("action", choices=("list", "show"))
    verb.add_argument("name", nargs="?", help="a method's name")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cskd_bench.method_facts import describe_method, describe_preset
    from cskd_bench.method_registry import PRESETS, find_settings, no_such_method, unreachable_names

    known, broken = find_settings()
    if options.action == "show" and options.name is None:
        raise UserError("methods show: name a method")
    if options.name in broken:
        raise UserError(broken[options.name])
    if options.name is not None and options.name not in {**known, **PRESETS}:
        raise UserError(f"methods: {no_such_method(options.name)}")
    names = [options.name] if options.name in known else list(known)
    described = [describe_method(known[name]) for name in names]
    if options.name in PRESETS:
        preset = PRESETS[options.name]
        described = [describe_preset(known[preset["kind"]], options.name, preset)]
    if options.json:
        print(json.dumps(described[0] if options.action == "show" else described, indent=1))
    elif options.action == "show":
        print("\n".join(_page(described[0])))
    else:
        width = max(map(len, [*names, *PRESETS]))
        for told in described:
            needs = ", ".join(told["needs"]) or "no teacher"
            bank = "bank" if told["bank"]["serves"] else "no bank"
            print(f"{told['name']:{width}}  {told['about']}; needs: {needs}; {bank}")
        for name, settings in PRESETS.items():
            print(f"{name:{width}}  {_preset(settings)}")
    if options.action == "list":
        for name in unreachable_names():
            print(f"{name}: an installed package offers a method of this name, which is taken", file=sys.stderr)
        for reason in broken.values():
            print(f"cskd-bench: {reason}", file=sys.stderr)
    return 0


def _preset(settings: dict[str, Any]) -> str:
    """Say what a preset is, in its method's settings."""
    changes = ", ".join(f"method.{key}={value}" for key, value in settings.items() if key != "kind")
    return f"preset: {settings['kind']} with {changes}"


def _page(told: dict[str, Any]) -> list[str]:
    """Return the lines of `show`."""
    bank, preset = told["bank"], told.get("preset")
    serves = f"serves it with {bank['labels']} labels" if bank["serves"] else f"does not serve it: {bank['reason']}"
    lines = [f"{preset['name']}: {_preset(preset['settings'])}"] if preset else []
    lines += [
        told["about"] if preset else f"{told['name']}: {told['about']}",
        "",
        f"equation  {told['equation'] or 'not stated'}",
        f"source    {told['source'] or 'not stated'}",
        f"needs     {', '.join(told['needs']) or 'no teacher'}",
        f"bank      {serves}",
    ]
    lines += [f"          {one['set']}: {one['reason'] or 'a bank serves it'}" for one in bank["except"]]
    for variant in told["variants"]:
        lines += ["", f"method.{variant['where']}: {variant['about']}", f"equation  {variant['equation']}"]
        lines += [f"source    {variant['source']}"] if variant["source"] else []
    lines += ["", "settings:", *map(_setting, told["settings"])] if told["settings"] else ["", "no settings"]
    stated = [one for one in told["settings"] if one["default"] is not None]
    first = [] if preset else stated[:1]
    words = [f" --set method.{one['key']}={_toml(one['default'])}" for one in first]
    name = preset["name"] if preset else told["name"]
    return [*lines, "", "use:", f"  cskd-bench pretrain configs/deit_tiny.toml --method {name}{''.join(words)}"]


def _setting(one: dict[str, Any]) -> str:
    """Return the line of a setting: its key, default, what it may be, and what it means."""
    allowed = " | ".join(map(_toml, one["choices"])) or one["bounds"]
    allowed = f" ({allowed})" if allowed else ""
    where = f" [where method.{one['where']}]" if one["where"] else ""
    meaning = f": {one['meaning']}" if one["meaning"] else ""
    return f"  method.{one['key']} = {_toml(one['default'])}{allowed}{where}{meaning}"


def _toml(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) and value else json.dumps(value)
