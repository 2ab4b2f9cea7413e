"""From what a user wrote to a complete spec: data set < method < spec files < --set < flags, in one place."""

from collections.abc import Iterable, Mapping
from typing import Any

from robustdistill.errors import UserError, nearest
from robustdistill.logits import DEFAULT_ROLE
from robustdistill.naming import dataset_of, registered
from robustdistill.quantities import absolute_step
from robustdistill.registry import Registry
from robustdistill.spec import Average, Node, RunSpec, from_layer

Layer = Mapping[str, Any]

NODES = ("student", "inner", "attack", "outer", "schedule", "average")
OWNED = {  # naming another one of these discards what lower layers said of what it owns
    "method": ("inner", "outer", "attack", "with", "attack_bn"),
    "data": ("data", "eps", "student", "teachers"),
}
DEFAULT_METHOD, DEFAULT_DATA = "mmard", "digits"


def resolve(layers: Iterable[Layer], registry: Registry) -> RunSpec:
    """The spec that the user's layers (lowest first) describe, with every default made explicit.

    Naming another unit at a node discards that node's parameters from lower layers; naming another method
    discards the objectives and the attack that lower layers gave. Parameters without a name belong to the
    unit of the method (or data set) that their own or a lower layer names, else to any named later. Raises
    UserError for anything unknown.
    """
    user: dict[str, Any] = {}
    for layer in layers:
        user = _merge_top(_bound(user, registry), normal(layer))
    name = user.get("method", DEFAULT_METHOD)
    method = {"method": name} | method_layer(name, registry)
    data = user.get("data", {}).get("name") or _teachers_dataset(user, registry) or DEFAULT_DATA
    data, folder = registry.placed(data)
    user = {**user, "data": _placed(user.get("data", {}), data, folder)}
    dataset = registry.dataset(data, user["data"].get("dir"))
    user |= _registered_teachers(user, data, registry)
    trial = {"epochs": 1} if user.get("limit_batches") is not None else {}
    base = merge_all([dataset.layer() | {"data": dataset.layer()["data"] | {"name": data}}, method, trial])
    spec = _with_params(from_layer(merge_all([base, user])), registry)
    _refuse_impossible(spec, registry)
    return spec


def _placed(data: Layer, name: str, folder: str | None) -> dict[str, Any]:
    """`data` under its name without a path, which is its folder where none is named."""
    return {**({"dir": folder} if folder is not None else {}), **data, "name": name}


def joined(low: Layer, high: Layer) -> dict[str, Any]:
    """Two layers that speak as one: `high` wins where both speak, and nothing else of `low` is discarded."""
    return dict(_merge_node(normal(low), normal(high), False))


def method_layer(name: str, registry: Registry) -> dict[str, Any]:
    """The layer of "mmard" or "sat@official"; `@paper` is the method itself."""
    base, _, variant = name.partition("@")
    method = registry.get("method", base)
    if variant in ("", "paper"):
        return dict(method.layer())
    if variant not in method.variants:
        raise UserError(f"method {base!r} has no variant {variant!r}{nearest(variant, ['paper', *method.variants])}")
    return merge_all([method.layer(), normal(method.variants[variant].changes)])


def merge_all(layers: Iterable[Layer]) -> dict[str, Any]:
    """Later layers over earlier ones, by the rules of `resolve`."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge_top(merged, layer)
    return merged


def _bound(user: Layer, registry: Registry) -> dict[str, Any]:
    """`user` with its nameless nodes named after the units of the method and the data set that it names."""
    nameless = [key for key in NODES if key in user and "name" not in user[key]]
    owners: dict[str, Any] = method_layer(user["method"], registry) if nameless and "method" in user else {}
    if nameless and "name" in user.get("data", {}):
        owners |= registry.dataset(user["data"]["name"], user["data"].get("dir")).layer()
    return {**user, **{key: {"name": owners[key]["name"], **user[key]} for key in nameless if key in owners}}


def _merge_top(low: Layer, high: Layer) -> dict[str, Any]:
    dropped = {key for owner, owned in OWNED.items() if _renamed(low, high, owner) for key in owned}
    merged = {key: value for key, value in low.items() if key not in dropped}
    for key, value in high.items():
        merged[key] = _merge_node(merged[key], value, key in NODES) if key in merged else value
    if "teachers" in high:
        merged["teachers"] = _merge_teachers({} if "teachers" in dropped else low.get("teachers", {}), high["teachers"])
    return merged


def _renamed(low: Layer, high: Layer, key: str) -> bool:
    before, after = (_name(layer.get(key)) for layer in (low, high))
    return None not in (before, after) and before != after


def _name(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value


def _merge_node(low: Any, high: Any, named: bool) -> Any:
    if not (isinstance(low, Mapping) and isinstance(high, Mapping)):
        return high
    if named and "name" in high and high["name"] != low.get("name", high["name"]):
        return dict(high)
    return {**low, **{k: _merge_node(low[k], v, False) if k in low else v for k, v in high.items()}}


def _merge_teachers(low: Layer, high: Layer) -> dict[str, Any]:
    return {**low, **{role: _merge_node(low.get(role, {}), node, True) for role, node in high.items()}}


def normal(layer: Layer) -> dict[str, Any]:
    """The shorthands written out: `inner = "ce"`, `data = "digits"`, `with = ["awp"]`, `teacher = "rn-18"`."""
    out = dict(layer)
    if not isinstance(out.get("method", ""), str):
        raise UserError(f"method = {out['method']!r}: write the name of a method")
    out |= {key: _node(out[key], key) for key in (*NODES, "data") if key in out}
    if isinstance(out.get("select"), str):
        out["select"] = {"split": out["select"]}
    if "teacher" in out or "teachers" in out:
        out["teachers"] = _roles(out.pop("teachers", {}), *([out.pop("teacher")] if "teacher" in out else []))
    if "with" in out or "modifiers" in out:
        out["with"] = _list(out.pop("modifiers", out.get("with")))
    return out


def _node(value: Any, place: str) -> dict[str, Any]:
    node = {"name": value} if isinstance(value, str) else value
    if not isinstance(node, Mapping) or not isinstance(node.get("name", ""), str):
        raise UserError(f"{place} = {value!r}: write a name, or a table with a name and parameters")
    return dict(node)


def _roles(teachers: Any, *default: Any) -> dict[str, Any]:
    if not isinstance(teachers, Mapping):
        raise UserError(f"teachers = {teachers!r}: write a table from roles to names, or teacher = NAME")
    roles = {**({DEFAULT_ROLE: default[0]} if default else {}), **teachers}
    return {role: _node(teacher, f"teachers.{role}") for role, teacher in roles.items()}


def _list(value: Any) -> list[dict[str, Any]]:
    items = value.split(",") if isinstance(value, str) else [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list | tuple):
        raise UserError(f"with = {value!r}: write a list of modifiers")
    stripped = (item.strip() if isinstance(item, str) else item for item in items)
    return [_node(item, "with") for item in stripped if item != ""]


def _teachers_dataset(user: Layer, registry: Registry) -> str | None:
    return dataset_of([t.get("name", "") for t in user.get("teachers", {}).values()], registry)


def _registered_teachers(user: Layer, data: str, registry: Registry) -> dict[str, Any]:
    """The teachers under the names that are theirs alone, whatever data set a later reader has in mind."""
    named = {role: t for role, t in user.get("teachers", {}).items() if "name" in t}
    own = {role: t | {"name": registered(t["name"], data, registry)} for role, t in named.items()}
    return {"teachers": user["teachers"] | own} if named else {}


def _with_params(spec: RunSpec, registry: Registry) -> RunSpec:
    """The same spec with each unit's parameters checked by its signature and completed."""

    def full(kind: str, node: Node, where: str) -> Node:
        return Node(name=node.name, **registry.params(kind, node.name, node.params, where))

    own = ":" in spec.student.name and not registry.knows("model", spec.student.name)  # pkg.mod:factory
    student = spec.student if own else full("model", spec.student, "student")
    return spec.model_copy(
        update={
            "student": student,
            "inner": full("inner", spec.inner, "inner"),
            "outer": full("outer", spec.outer, "outer"),
            "attack": full("attack", spec.attack, "attack"),
            "modifiers": tuple(full("modifier", m, f"with.{m.name}") for m in spec.modifiers),
            "select": spec.select.model_copy(update={"attack": _known(registry, spec.select.attack)}),
        }
    )


def _known(registry: Registry, attack: str) -> str:
    registry.get("attack", attack)
    return attack


def _refuse_impossible(spec: RunSpec, registry: Registry) -> None:
    """UserError for an attack that training cannot take or that would move nothing."""
    name, given = spec.attack.name, spec.attack.params
    if isinstance(given.get("step"), float | str):
        absolute_step(given["step"], spec.eps)
    if spec.inner.name == "none":
        return
    if registry.get("attack", name).ensemble:
        raise UserError(f"attack {name!r} judges whole sets of images and cannot train; use pgd, and {name} in eval")
    if given.get("steps") == 0 and given.get("start") == "none":
        raise UserError("attack.steps = 0 without a start moves nothing; for training without an attack: --inner none")


def advice(spec: RunSpec) -> list[str]:
    """Sentences on settings that are legal and rarely meant."""
    sentences = []
    attack = spec.attack.params
    if spec.inner.name != "none" and {"step", "steps"} <= attack.keys():
        step = absolute_step(attack["step"], spec.eps)
        reach = step * attack["steps"]
        if reach < spec.eps * (1 - 1e-9):
            sentences.append(
                f"the attack cannot reach its ball: steps x step = {reach:.4g} is less than eps = {spec.eps:.4g}"
            )
        if step > 2 * spec.eps:
            sentences.append(f"the attack's step {step:.4g} crosses the whole ball; eps is {spec.eps:.4g}")
    if spec.schedule.name != "multistep" and spec.schedule.milestones:
        sentences.append(f"schedule.milestones belong to multistep; the schedule is {spec.schedule.name}")
    if spec.average.name == "none" and spec.average != Average():
        sentences.append("nothing is averaged: set average.name to ema or swa, or leave the rest of average out")
    late = [m for m in spec.schedule.milestones if m >= spec.span]
    if spec.schedule.name == "multistep" and late and spec.limit_batches is None:
        after, ends = ", ".join(map(str, late)), "run ends" if spec.span == spec.epochs else "schedule ends"
        sentences.append(
            f"the learning rate never drops at epoch {after}: the {ends} after {spec.span}; "
            "set schedule.milestones, or --set schedule.name=cosine"
        )
    return sentences
