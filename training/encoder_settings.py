"""What acts on the encoder in training alone: dropouts, layer drop, the factor on its convolutions' gradient."""

from common.console import UserError
from corpora import recipe_of
from model import Detector
from training.config import TrainingConfig
from training.recipes import RECIPES


def choose(config: TrainingConfig, detector: Detector, weights: str) -> dict[str, tuple[float, str]]:
    """{setting: (value, where it is from)} of a new run, for the settings that the detector's front-end has.

    The flag's value, else the recipe's, else the detector's own, which is as its pre-trained file says. weights: the
    name of that file.
    """
    recipe = _recipe(config, detector)
    settings = {}
    for name, own in detector.front_end.training_settings().items():
        value = getattr(config, name)
        source = "recipe" if value == recipe.get(name) else "flag"
        settings[name] = (own, weights) if value is None else (value, source)
    return settings


def as_begun(config: TrainingConfig, detector: Detector, before: dict) -> dict[str, tuple[float, str]]:
    """The same of a run that goes on, by its config.json. The flags have been compared with what that says.

    Runs that began before these were flags trained as the encoder's file said if it was named by --ssl_path and not by
    --ssl, and else without dropouts. Raises UserError if a flag asks for something else.
    """
    recipe, front_end = _recipe(config, detector), detector.front_end
    said = before["model"].get("ssl_config")
    settings = {}
    for name, own in front_end.training_settings().items():
        value = before["training"].get(name)
        if value is None:
            value = own if said is None else said.get(name, front_end.in_training[name])
            if (given := getattr(config, name)) not in (None, value, recipe.get(name)):
                raise UserError(f"--{name}: the run was started with {value}, found {given}")
        settings[name] = value, "as the run began"
    return settings


def _recipe(config, detector):
    return recipe_of(config.corpus, detector.config.model_name) | RECIPES.get(config.recipe, {})


def in_words(settings: dict[str, tuple[float, str]]) -> str:
    """The settings in one line, those from one place together."""
    sources = dict.fromkeys(source for _, source in settings.values())
    of = {source: [f"{n} {value:g}" for n, (value, own) in settings.items() if own == source] for source in sources}
    return "; ".join(f"{', '.join(words)} ({source})" for source, words in of.items())
