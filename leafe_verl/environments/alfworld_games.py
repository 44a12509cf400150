"""ALFWorld's games: downloaded ones, and kitchens that are generated for the package's own domain.

python -m leafe_verl.environments.alfworld_games FOLDER > train.jsonl     writes a row for each game in a folder
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = (
    "pick_and_place_simple",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""Kinds of tasks: the benchmark's six without the one that needs a lamp."""
ABILITIES = {
    KINDS[1]: ("Cleanable", "SinkBasin"),
    KINDS[2]: ("Heatable", "Microwave"),
    KINDS[3]: ("Coolable", "Fridge"),
}
"""Kind of task to what the object must allow, and the receptacle where that is done."""
FURNITURE: Mapping[str, tuple[int, int]] = {
    "Fridge": (1, 1), "Microwave": (1, 1), "SinkBasin": (1, 1), "GarbageCan": (1, 1), "CoffeeMachine": (1, 1),
    "Toaster": (1, 1), "CounterTop": (2, 3), "Cabinet": (4, 7), "Drawer": (2, 5), "StoveBurner": (2, 4),
    "Shelf": (0, 2), "DiningTable": (0, 1),
}  # fmt: skip
"""Type of receptacle to the smallest and the largest number of them in a kitchen."""
OPENABLE = frozenset({"Fridge", "Microwave", "Cabinet", "Drawer"})
NUM_OBJECTS = (10, 16)
"""Smallest and largest number of objects in a kitchen besides those of the task."""
GAME_FILE = "game.tw-pddl"


@dataclass(frozen=True)
class Kitchen:
    """A layout of a kitchen and the task in it."""

    kind: str
    target: str
    """Type of the object to be brought, as the domain names it, such as Apple."""
    destination: str
    """Type of the receptacle to which it is brought."""
    receptacles: tuple[str, ...]
    """Types of the receptacles; the n-th is at location n, counted from 1."""
    objects: tuple[tuple[str, int], ...]
    """Objects as (type, index of the receptacle that holds the object)."""


def make_kitchen(seed: int, kind: str) -> Kitchen:
    """Return a kitchen in which the task can be done.

    The object is there, not yet in a receptacle of the destination's type, which can hold it.
    """
    constants = importlib.import_module("alfworld.gen.constants")
    chance = random.Random(f"{kind} {seed}")
    receptacles = [name for name, counts in FURNITURE.items() for _ in range(chance.randint(*counts))]
    holds = {name: _holdable(constants, name) for name in receptacles}
    ability, place = ABILITIES.get(kind, (None, None))
    able = set(constants.VAL_ACTION_OBJECTS[ability]) if ability else set.union(*map(set, holds.values()))
    goals = [(each, name) for name in sorted(holds) for each in holds[name] if each in able and name != place]
    goals = [(each, name) for each, name in goals if any(each in holds[other] for other in holds if other != name)]
    target, destination = chance.choice(goals)
    num_targets = 2 if kind == "pick_two_obj_and_place" else 1
    others = sorted({each for held in holds.values() for each in held} - {target})
    kinds = [target] * num_targets + [chance.choice(others) for _ in range(chance.randint(*NUM_OBJECTS))]
    objects = []
    for each in kinds:
        avoided = destination if each == target else None
        places = [index for index, name in enumerate(receptacles) if each in holds[name] and name != avoided]
        objects.append((each, chance.choice(places)))
    return Kitchen(kind, target, destination, tuple(receptacles), tuple(objects))


def _holdable(constants: Any, receptacle: str) -> list[str]:
    return sorted(each for each in constants.VAL_RECEPTACLE_OBJECTS[receptacle] if not each.endswith("Sliced"))


def build_game(kitchen: Kitchen, seed: int) -> dict[str, Any]:
    """Return the game in the form of `game.tw-pddl`. `seed` draws the words of the task."""
    library = importlib.import_module("alfworld.gen.goal_library").gdict[kitchen.kind]
    words = random.Random(seed).choice(library["templates"])
    words = words.format(obj=kitchen.target.lower(), recep=kitchen.destination.lower())
    data = _package_folder() / "data"
    return {
        "pddl_domain": (data / "alfred.pddl").read_text(encoding="utf-8"),
        "grammar": (data / "alfred.twl2").read_text(encoding="utf-8").replace("UNKNOWN GOAL", words),
        "pddl_problem": _problem(kitchen, library["pddl"].replace("#", "-")),
        "solvable": True,
    }


def _problem(kitchen: Kitchen, goal: str) -> str:
    constants = importlib.import_module("alfworld.gen.constants")
    abilities = constants.VAL_ACTION_OBJECTS
    places = [(_id(name, index), f"loc_bar_{index + 1}", name) for index, name in enumerate(kitchen.receptacles)]
    objects = [(_id(name, index), name, places[where]) for index, (name, where) in enumerate(kitchen.objects)]
    names, furniture = sorted({name for _, name, _ in objects}), sorted(set(kitchen.receptacles))
    declared = ["agent1 - agent", "loc_bar_0 - location"]
    declared += [f"{place} - location {id} - receptacle" for id, place, _ in places]
    declared += [f"{id} - object" for id, _, _ in objects]
    declared += [f"{name}Type - otype" for name in names] + [f"{name}Type - rtype" for name in furniture]
    facts = ["(atLocation agent1 loc_bar_0)"]
    for id, place, name in places:
        facts += [f"(receptacleType {id} {name}Type)", f"(receptacleAtLocation {id} {place})"]
        facts += [f"(openable {id})"] if name in OPENABLE else []
    for name in furniture:
        facts += [f"(canContain {name}Type {each}Type)" for each in _holdable(constants, name) if each in names]
    for id, name, (receptacle, place, _) in objects:
        facts += [f"(objectType {id} {name}Type)", f"(pickupable {id})", f"(objectAtLocation {id} {place})"]
        facts += [f"(inReceptacle {id} {receptacle})"]
        facts += [f"({each.lower()} {id})" for each in ("Cleanable", "Heatable", "Coolable") if name in abilities[each]]
    goal = goal.format(obj=kitchen.target, recep=kitchen.destination)
    head = "(define (problem kitchen) (:domain alfred)"
    return f"{head}\n(:objects\n{_lines(declared)})\n(:init\n{_lines(facts)})\n{goal}"


def _id(name: str, index: int) -> str:
    # Ids of sink basins begin with Sink: the package appends "basin" to an id that ends in it, and would otherwise show
    # "sinkbasinbasin".
    return f"Sink_bar_{index}_bar_basin" if name == "SinkBasin" else f"{name}_bar_{index}"


def _lines(items: Sequence[str]) -> str:
    return "\n".join(items) + "\n"


def _package_folder() -> Path:
    # The package is not imported, because that would create a folder in the user's home.
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("alfworld is not installed")
    return Path(spec.submodule_search_locations[0])


def find_games(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each playable game in a folder that `alfworld-download` filled, in the order of the paths.

    As in the benchmark, games with movable receptacles or slices and unsolvable games are left out.
    """
    for file in sorted(folder.resolve().rglob(GAME_FILE)):
        if "movable" in (own := "/".join(file.parts[-4:-1])) or "Sliced" in own:
            continue
        if json.loads(file.read_text(encoding="utf-8")).get("solvable"):
            yield {"task_id": own, "game": str(file)}


def main() -> None:
    rows = list(find_games(Path(sys.argv[1]))) if len(sys.argv) == 2 else []
    if not rows:
        sys.exit(f"expected one folder with {GAME_FILE} files, such as json_2.1.1/train of ALFWORLD_DATA")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
