"""The method `taught-attack`: RSLAD's attack, adversarial training's loss."""

from robustdistill import Method, Recipe, hookimpl


@hookimpl
def register_methods() -> dict[str, Method]:
    method = Method(
        inner="kl-teacher",
        outer="sat",
        summary="CE(S(x'), y), x' by KL(S(x'), T(x))",
        recipe=Recipe(epochs=20, schedule="cosine"),
    )
    return {"taught-attack": method}
