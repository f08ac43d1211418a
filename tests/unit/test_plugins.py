"""Plugins: which are made, with what options, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import jsonschema_rs
import pytest

import pgbus
from pgbus import Api, Event, Plugin
from pgbus.config import Config, file_schema
from pgbus.errors import ConfigurationError
from pgbus.plugins import load_plugins, plugin_schemas, tell_plugins
from tests.support.distributions import install

SOURCE = """
    from __future__ import annotations
    from dataclasses import dataclass
    from decimal import Decimal
    from pathlib import Path
    from typing import TYPE_CHECKING, Literal

    from pgbus import Plugin
    from pgbus.errors import ConfigurationError

    if TYPE_CHECKING:
        from pgbus import Config

    @dataclass
    class Rule:
        topic: str
        limit: int = 1

    class Greeting(Plugin):
        priority = 200

        def __init__(self, config, **options):
            self.config = config
            self.options = options

        @classmethod
        def from_config(
            cls, *, config: Config, greeting: str = "Hello world!", times: int = 1, colour: Literal["red", "blue"] = "red",
            file: Path = Path("log.txt"), rules: list[Rule] = [], share: Decimal = Decimal("0.5"), quiet=False,
            limit: int | None = None,
        ):
            if greeting == "boom":
                raise ValueError("too loud")
            if greeting == "bad":
                raise ConfigurationError("plugins.greeting.greeting: 'bad' is not a greeting")
            if greeting == "nothing":
                return None
            return cls(config, greeting=greeting, times=times, colour=colour, file=file, rules=rules, share=share,
                       quiet=quiet, limit=limit)

    class Plain(Plugin):
        pass

    class NoDefault(Plugin):
        @classmethod
        def from_config(cls, *, config, needed: str):
            return cls()

    class Positional(Plugin):
        @classmethod
        def from_config(cls, config, option: str = ""):
            return cls()

    class SaysEnabled(Plugin):
        @classmethod
        def from_config(cls, *, config, enabled: bool = True):
            return cls()

    class UnknownHint(Plugin):
        @classmethod
        def from_config(cls, *, config, option: Nowhere = None):
            return cls()

    class NoPlugin:
        pass
"""  # noqa: E501 - a program
NAMES = {
    "greeting": "Greeting",
    "plain": "Plain",
    "no_default": "NoDefault",
    "positional": "Positional",
    "says_enabled": "SaysEnabled",
    "unknown_hint": "UnknownHint",
    "no_plugin": "NoPlugin",
    "not_there": "Nowhere",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with all of them, and one that cannot even be imported."""
    install(tmp_path / "site", "many_plugins", SOURCE, plugins=NAMES)
    install(tmp_path / "site", "broken_plugin", "import nothing_of_this_name", plugins={"broken": "Broken"})
    monkeypatch.syspath_prepend(tmp_path / "site")


def load(**plugins: object) -> list[Plugin]:
    return load_plugins(Config.load({"plugins": plugins}, environ={}, directory=Path("/")))


@pytest.mark.usefixtures("installed")
def test_only_plugins_that_the_configuration_enables_are_made() -> None:
    assert load() == []
    assert load(greeting={}, plain={"enabled": False}, broken={"enabled": False}) == []
    assert [type(plugin).__name__ for plugin in load(greeting={}, plain={"enabled": True})] == ["Plain"]


@pytest.mark.usefixtures("installed")
def test_options_have_their_defaults_and_are_read_into_their_annotations(tmp_path: Path) -> None:
    [plugin] = load(greeting={"enabled": True})
    assert vars(plugin)["options"] == {
        "greeting": "Hello world!", "times": 1, "colour": "red", "file": Path("log.txt"), "rules": [],
        "share": pytest.approx(0.5), "quiet": False, "limit": None,
    }  # fmt: skip
    (tmp_path / "pgbus.yaml").write_text(
        """
        plugins:
          greeting: {enabled: "${ON}", times: "${TIMES}", file: a.txt, rules: [{topic: a}], share: "0.25", limit: 3}
        """
    )
    config = Config.load(environ={"ON": "true", "TIMES": "7"}, directory=tmp_path)
    [plugin] = load_plugins(config)
    given = vars(plugin)["options"]
    assert (given["times"], given["file"], given["rules"][0].limit, given["limit"]) == (7, Path("a.txt"), 1, 3)
    assert vars(plugin)["config"] is config


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("greting", {}, r"^plugins\.greting: no such plugin is installed; there are broken, greeting, internal_metr"),
        ("broken", {}, r"^plugin 'broken' cannot be imported from broken_plugin:Broken: ModuleNotFoundError: No modu"),
        ("not_there", {}, r"^plugin 'not_there' cannot be imported from many_plugins:Nowhere: AttributeError: "),
        ("no_plugin", {}, r"^plugin 'no_plugin': many_plugins:NoPlugin is not a class derived from pgbus\.Plugin$"),
        ("no_default", {}, r"^plugin 'no_default': parameter 'needed' of from_config needs a default$"),
        ("positional", {}, r"^plugin 'positional': parameter 'option' of from_config is not keyword-only"),
        (
            "says_enabled",
            {},
            r"^plugin 'says_enabled': parameter 'enabled' of from_config is an option of every plugin",
        ),
        ("unknown_hint", {}, r"^plugin 'unknown_hint': an annotation of from_config is unknown: name 'Nowhere'"),
        ("greeting", {"greting": "Hi"}, r"^plugins\.greeting: there is no setting 'greting'; did you mean 'greeting'"),
        ("greeting", {"greeting": 5}, r"^plugins\.greeting\.greeting: does not fit: Expected `str`, got `int`$"),
        ("greeting", {"times": "5"}, r"^plugins\.greeting\.times: does not fit: Expected `int`, got `str`$"),
        ("greeting", {"colour": "green"}, r"^plugins\.greeting\.colour: does not fit: Invalid enum value 'green'$"),
        ("greeting", {"rules": [{}]}, r"^plugins\.greeting\.rules: .* missing required field `topic` - at `\$\[0\]`$"),
        ("greeting", {"enabled": "yes"}, r"^plugins\.greeting\.enabled: does not fit: Expected `bool`, got `str`$"),
        ("greeting", {"greeting": "boom"}, r"^plugin 'greeting' cannot be made: ValueError: too loud$"),
        ("greeting", {"greeting": "bad"}, r"^plugins\.greeting\.greeting: 'bad' is not a greeting$"),
        ("greeting", {"greeting": "nothing"}, r"^plugin 'greeting': from_config of .* returned None, which is none$"),
        ("internal_state", {"ping_interval": 0}, r"^plugins\.internal_state\.ping_interval: does not fit: .* >= 0\.1$"),
    ],
)
def test_a_plugin_that_cannot_be_made_is_named_with_its_option(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(**{name: {"enabled": True, **options}})


@pytest.mark.usefixtures("installed")
def test_a_wrong_option_is_named_with_the_file_it_stands_in(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("[plugins.greeting]\nenabled = true\ntimes = 'often'")
    with pytest.raises(ConfigurationError, match=r"^plugins\.greeting\.times \(pgbus\.toml\): does not fit"):
        load_plugins(Config.load(environ={}, directory=tmp_path))


def test_the_schema_of_the_file_knows_the_options_of_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "greeting_plugin", SOURCE, plugins={"greeting": "Greeting"})
    monkeypatch.syspath_prepend(tmp_path)
    schema = file_schema(plugin_schemas())
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.Draft202012Validator(schema)
    for options, is_valid in (
        ({"enabled": True, "greeting": "Hi", "times": 3, "rules": [{"topic": "a", "limit": 2}], "limit": None}, True),
        ({"enabled": "${ON}", "times": "${TIMES}"}, True),
        ({"file": "a.txt", "share": "0.1"}, True),
        ({"greting": "Hi"}, False),
        ({"times": "3"}, False),
        ({"colour": "green"}, False),
        ({"rules": [{"limit": 2}]}, False),
    ):
        assert validator.is_valid({"plugins": {"greeting": options}}) is is_valid, options
        if is_valid:
            load_plugins(
                Config.load(
                    environ={"ON": "true", "TIMES": "3"}, directory=tmp_path, table={"plugins": {"greeting": options}}
                )
            )
        else:
            with pytest.raises(ConfigurationError):
                load(greeting={"enabled": True, **options})
    assert not validator.is_valid({"plugins": {"unknown": {}}})
    assert validator.is_valid({"plugins": {"internal_state": {"ping_interval": 5}}})
    assert not validator.is_valid({"plugins": {"internal_state": {"ping_interval": 0}}})


# ------------------------------------------------------------------------------------------------------------ in a bus


class GreetingApi(Api):
    greeted = Event(parameters=("name",))

    class Meta:
        name = "greeting"


class Speaker(Plugin):
    priority = 300
    apis = (GreetingApi(),)

    def before_event_sent(self) -> None:
        raise NotImplementedError


class Early(Plugin):
    priority = 200

    def before_event_sent(self) -> None:
        raise NotImplementedError


def test_a_bus_has_its_plugins_in_order_and_their_apis() -> None:
    speaker, early = Speaker(), Early()
    bus = pgbus.create("postgresql://nowhere/none", plugins=[speaker, early])
    assert bus.plugins == [early, speaker]
    assert "greeting" in bus.client.api_registry
    assert list(bus.client.hook_registry.before_event_sent) == [early.before_event_sent, speaker.before_event_sent]
    assert not bus.client.hook_registry.after_event_sent


def test_what_is_given_as_plugins_are_all_there_are(tmp_path: Path) -> None:
    enabled = {"plugins": {"internal_state": {"enabled": True}}}
    assert [type(plugin).__name__ for plugin in pgbus.create(config=enabled).plugins] == ["StatePlugin"]
    assert pgbus.create(config=enabled, plugins=[]).plugins == []
    with pytest.raises(
        ConfigurationError, match=r"is not a plugin: give instances of classes derived from pgbus\.Plugin$"
    ):
        pgbus.create(plugins=[Speaker])  # type: ignore[list-item] # what a caller without a type checker may write


async def test_plugins_are_told_of_an_exception_whatever_one_of_them_does(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[object] = []

    class Async(Plugin):
        async def exception(self, e: Exception) -> None:
            heard.append(e)
            raise OSError("no sentry here")

    class Plain(Plugin):
        def exception(self, *, e: Exception) -> None:
            heard.append(e)

    error = ValueError("boom")
    await tell_plugins([Async(), Plugin(), Plain()], error)
    assert heard == [error, error]
    assert "Async failed on an exception" in caplog.text
