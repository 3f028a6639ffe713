from __future__ import annotations

import re
import ssl
import subprocess
import sys
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
import redis
import redis.asyncio
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection

from redis_integration.conf import (
    ConnectionArguments,
    RedisSettings,
    find_problems,
    get_aliases,
    get_databases,
    get_settings,
    read_settings,
)

URL = "redis://localhost:6379/0"
DOCS = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
PLAIN_ARGUMENTS = {"protocol": 3, "socket_keepalive": True, "socket_read_size": 4096}
TLS_ARGUMENTS = {
    "ssl_ca_certs": "ca.pem",
    "ssl_ca_data": "ca",
    "ssl_ca_path": "certificates",
    "ssl_cert_reqs": "required",
    "ssl_certfile": "client.pem",
    "ssl_check_hostname": True,
    "ssl_ciphers": "DEFAULT",
    "ssl_keyfile": "client.key",
    "ssl_min_version": ssl.TLSVersion.TLSv1_3,
    "ssl_password": "opensesame",
}
OPTIONS_BESIDE_URL = [member.name.upper() for member in fields(RedisSettings) if member.name != "url"]


def configure(settings, url=URL, **options):
    settings.REDIS_INTEGRATION = {"default": {"URL": url, **options}}


def read_table(heading, columns):
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|" + r" ([^|]*) \|" * (columns - 1) + "$", section, re.MULTILINE)


def test_a_url_is_enough(settings):
    """Everything but the URL has a default."""
    configure(settings)

    assert get_settings() == RedisSettings(url=URL)


def test_options_become_fields(settings):
    """Option POOL_TIMEOUT is field pool_timeout, and so on."""
    configure(settings, POOL_TIMEOUT=1, RETRIES=0, DATABASE=None, FALLBACK=None, OPTIONS={"protocol": 2})

    assert get_settings() == RedisSettings(
        url=URL, pool_timeout=1, retries=0, database=None, fallback=None, options=(("protocol", 2),)
    )


def test_settings_are_read_once(settings):
    """A second call gives the same object."""
    configure(settings)

    assert get_settings("default") is get_settings("default")


def test_a_changed_setting_is_read_again(settings):
    """Overridden settings count at once."""
    configure(settings, RETRIES=0)
    before = get_settings()

    configure(settings, RETRIES=2)

    assert (before.retries, get_settings().retries) == (0, 2)


def test_another_changed_setting_resets_nothing(settings):
    """Only REDIS_INTEGRATION itself makes it read again."""
    configure(settings)
    before = get_settings("default")

    settings.USE_TZ = False

    assert get_settings("default") is before


def test_import_reads_no_setting():
    """The module is importable where Django is not configured."""
    code = "import redis_integration.conf; from django.conf import settings; print(settings.configured)"
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent)}

    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "False"


def test_aliases_keep_their_order(settings):
    """The aliases come in the order of the setting."""
    settings.REDIS_INTEGRATION = {"b": {"URL": URL}, "a": {"URL": URL}}

    assert get_aliases() == ["b", "a"]


@pytest.mark.parametrize("value", [None, {}, [], "redis://localhost"])
@pytest.mark.parametrize("read", [get_aliases, get_settings])
def test_setting_must_be_a_filled_dict(settings, value, read):
    """A setting that is no dict, or an empty one, is named with an example."""
    settings.REDIS_INTEGRATION = value

    with pytest.raises(ImproperlyConfigured, match=r"REDIS_INTEGRATION is missing, empty or no dict.*'URL'"):
        read()


def test_missing_setting_is_named(settings):
    """A missing setting is no AttributeError."""
    del settings.REDIS_INTEGRATION

    with pytest.raises(ImproperlyConfigured, match="REDIS_INTEGRATION is missing"):
        get_settings()


def test_unknown_alias_names_the_known_ones(settings):
    """Who asks for an alias that does not exist learns which do."""
    settings.REDIS_INTEGRATION = {"default": {"URL": URL}, "sessions": {"URL": URL}}

    with pytest.raises(ImproperlyConfigured, match="no alias 'carts', only 'default', 'sessions'"):
        get_settings("carts")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("redis://localhost", r"REDIS_INTEGRATION\['default'\] is no dict\. Give it options"),
        ({}, r"REDIS_INTEGRATION\['default'\] needs 'URL', for example 'redis://localhost:6379/0'\."),
        ({"URL": ""}, "needs 'URL'"),
        ({"URL": None}, "needs 'URL'"),
        ({"URL": ["redis://localhost"]}, "'URL' that is no string"),
        ({"URL": b"redis://localhost"}, "'URL' that is no string"),
        ({"URL": URL, "OPTIONS": None}, "'OPTIONS' that are no dict"),
        ({"URL": URL, "OPTIONS": [("protocol", 3)]}, "'OPTIONS' that are no dict"),
        ({"URL": URL, "CONECT_TIMEOUT": 1}, r"no option 'CONECT_TIMEOUT'\. Did you mean 'CONNECT_TIMEOUT'\?"),
        ({"URL": URL, "connect_timeout": 1}, r"no option 'connect_timeout'\. Did you mean 'CONNECT_TIMEOUT'\?"),
        ({"url": URL}, r"no option 'url'\. Did you mean 'URL'\?"),
        ({"URL": URL, 7: 1}, r"no option 7\. Known: URL, USERNAME, "),
        ({"URL": URL, "OPTIONS": {"ssl_cacerts": "x"}}, r"'ssl_cacerts'\. Did you mean 'ssl_ca_certs'\?"),
        ({"URL": URL, "OPTIONS": {"decode_responses": True}}, "'OPTIONS' of the name 'decode_responses'"),
        ({"URL": URL, "OPTIONS": {7: 7, "protocol": 3}}, "'OPTIONS' of the name 7"),
    ],
)
def test_options_that_cannot_be_read(settings, options, message):
    """What is missing, misspelt or of a wrong shape is named with its remedy."""
    settings.REDIS_INTEGRATION = {"default": options}

    with pytest.raises(ImproperlyConfigured, match=message):
        get_settings()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost", "unknown scheme. Begin it with redis://, rediss:// or unix://"),
        ("localhost:6379", "unknown scheme"),
        ("REDIS://localhost", "unknown scheme"),
        (" redis://localhost", "unknown scheme"),
        ("unix://", "without a path"),
        ("unix:///", "without a path"),
        ("unix://run/redis.sock", "without a path"),
        ("redis://localhost:http/0", "numbers for port"),
        ("redis://localhost:70000/0", "numbers for port"),
        ("redis://localhost:0/0", "numbers for port"),
        ("redis://[::1/0", "cannot be read"),
        ("redis://localhost/0#1", "cannot be read"),
        ("redis://:#opensesame@localhost", "cannot be read"),
        ("redis://:?opensesame@localhost", "cannot be read"),
        ("redis://localhost/one", "database that is no number"),
        ("redis://localhost/-1", "database that is no number"),
        ("redis://localhost/1/2", "database that is no number"),
        ("redis://localhost/1_0", "database that is no number"),
        ("redis://localhost?db=-1", "database that is no number"),
        ("redis://localhost?db=one", "cannot be read"),
        ("unix:///run/redis.sock?db=-1", "database that is no number"),
        ("redis://localhost?protocol=three", "cannot be read"),
        ("redis://localhost?protocl=3", "unknown argument 'protocl'. Did you mean 'protocol'?"),
        ("redis://localhost?decode_responses=1", "unknown argument 'decode_responses'"),
        ("redis://localhost?max_connections=", "unknown argument 'max_connections'"),
    ],
)
def test_urls_that_cannot_be_read(settings, url, message):
    """A URL that redis-py would misread or refuse is refused with its remedy."""
    configure(settings, url)

    with pytest.raises(ImproperlyConfigured, match=re.escape(message)):
        get_settings()


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "http"])
@pytest.mark.parametrize("character", ["/", "?", "#", "[", "@:", "/?x=", "?x="])
def test_unescaped_password_is_not_shown(settings, scheme, character):
    """No piece of a password that broke its URL reaches the message, nor the chain of exceptions."""
    configure(settings, f"{scheme}://:tops{character}ecret@localhost:port/0")

    with pytest.raises(ImproperlyConfigured) as caught:
        get_settings()

    assert not re.search("tops|ecret", str(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", "localhost:6379/0"),
        ("redis:///2", "localhost:6379/2"),
        ("redis://localhost", "localhost:6379/0"),
        ("redis://localhost/", "localhost:6379/0"),
        ("redis://cache.example.com:6380/1", "cache.example.com:6380/1"),
        ("rediss://alice:opensesame@10.0.0.7:6380/1", "10.0.0.7:6380/1"),
        ("redis://:open%2Fse%23same@10.0.0.7", "10.0.0.7:6379/0"),
        ("redis://localhost/1?db=2", "localhost:6379/2"),
        ("redis://[::1]:6380/0", "[::1]:6380/0"),
        ("unix:///run/redis.sock", "unix:/run/redis.sock?db=0"),
        ("unix://alice:opensesame@/run/redis.sock?db=1", "unix:/run/redis.sock?db=1"),
    ],
)
def test_address_is_for_humans(settings, url, address):
    """The address tells host, port and database, and no credential."""
    configure(settings, url)

    assert get_settings().address == address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", True),
        ("redis://localhost", True),
        ("redis://LOCALHOST:1", True),
        ("redis://127.0.0.1", True),
        ("redis://127.8.8.8", True),
        ("redis://[::1]", True),
        ("unix://alice:opensesame@/run/redis.sock", True),
        ("redis://10.0.0.7", False),
        ("redis://127.example.com", False),
        ("rediss://localhost.example.com", False),
    ],
)
def test_is_local(url, expected):
    """Loopback hosts and unix sockets are local, other hosts are not."""
    assert RedisSettings(url=url).is_local is expected


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("USERNAME", b"alice", "a string or None"),
        ("PASSWORD", 12345, "a string or None"),
        ("MAX_CONNECTIONS", "50", "a whole number"),
        ("MAX_CONNECTIONS", 50.0, "a whole number"),
        ("MAX_CONNECTIONS", True, "a whole number"),
        ("POOL_TIMEOUT", None, "seconds"),
        ("CONNECT_TIMEOUT", "0.25", "seconds"),
        ("COMMAND_TIMEOUT", True, "seconds"),
        ("RETRIES", None, "a whole number"),
        ("HEALTH_CHECK_INTERVAL", [30], "seconds"),
        ("CLIENT_NAME", None, "characters"),
        ("ENABLED", "False", "True or False"),
        ("ENABLED", 0, "True or False"),
        ("KEY_PREFIX", None, "1 to 50"),
        ("DATABASE", ["default"], "a string or None"),
        ("FALLBACK", False, "'outage', 'durable' or None"),
        ("FALLBACK_TTL", {}, "seconds"),
        ("OPTIONS", {"protocol": "3"}, "2 or 3"),
        ("OPTIONS", {"socket_keepalive": 1}, "True or False"),
        ("OPTIONS", {"socket_read_size": []}, "a whole number"),
    ],
)
def test_wrong_types_are_refused(settings, option, value, wanted):
    """A value of a wrong type is ImproperlyConfigured with what is wanted, never a TypeError."""
    configure(settings, **{option: value})

    with pytest.raises(ImproperlyConfigured, match=rf"\['default'\]: {option}.* is of type \w+\. Give .*{wanted}"):
        get_settings()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("MAX_CONNECTIONS", 0),
        ("POOL_TIMEOUT", -0.1),
        ("POOL_TIMEOUT", float("inf")),
        ("CONNECT_TIMEOUT", 0),
        ("CONNECT_TIMEOUT", float("nan")),
        ("COMMAND_TIMEOUT", 0.0),
        ("COMMAND_TIMEOUT", 10**400),
        ("RETRIES", -1),
        ("HEALTH_CHECK_INTERVAL", -1),
        ("CLIENT_NAME", ""),
        ("CLIENT_NAME", "two words"),
        ("CLIENT_NAME", "two\nlines"),
        ("KEY_PREFIX", ""),
        ("KEY_PREFIX", "shop:live"),
        ("KEY_PREFIX", "{shop}"),
        ("KEY_PREFIX", "shop*"),
        ("KEY_PREFIX", "shop#1"),
        ("KEY_PREFIX", "my shop"),
        ("KEY_PREFIX", "shop\n"),
        ("KEY_PREFIX", "höker"),
        ("KEY_PREFIX", "x" * 51),
        ("FALLBACK", "always"),
        ("FALLBACK_ENTRIES", 0),
        ("FALLBACK_TTL", 0),
        ("OPTIONS", {"protocol": 4}),
        ("OPTIONS", {"socket_read_size": 0}),
    ],
)
def test_unusable_values_are_refused(settings, option, value):
    """A value of the right type with which nothing could work is refused."""
    configure(settings, **{option: value})

    with pytest.raises(
        ImproperlyConfigured, match=rf"\['default'\]: {option}.* has a value that cannot be used\. Give "
    ):
        get_settings()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("POOL_TIMEOUT", 0),
        ("CONNECT_TIMEOUT", 1),
        ("COMMAND_TIMEOUT", 0.001),
        ("HEALTH_CHECK_INTERVAL", 0),
        ("RETRIES", 0),
        ("MAX_CONNECTIONS", 1),
        ("PASSWORD", ""),
        ("USERNAME", "alice"),
        ("KEY_PREFIX", "Shop_2.live-b"),
        ("KEY_PREFIX", "x" * 50),
        ("DATABASE", None),
        ("FALLBACK", None),
    ],
)
def test_edge_values_are_accepted(settings, option, value):
    """The bounds themselves, whole numbers for seconds, and None where it has a meaning are fine."""
    configure(settings, **{option: value})

    assert getattr(get_settings(), option.lower()) == value


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("redis://localhost", {"OPTIONS": {"ssl_ca_certs": "ca.pem"}}, "for TLS only. Use a rediss:// URL"),
        ("redis://localhost?ssl_cert_reqs=none", {}, "for TLS only. Use a rediss:// URL"),
        ("unix:///run/redis.sock", {"OPTIONS": {"ssl_ciphers": "DEFAULT"}}, "for TLS only"),
        ("unix:///run/redis.sock", {"OPTIONS": {"socket_keepalive": True}}, "for TCP only"),
        ("redis://alice:opensesame@localhost", {"USERNAME": "bob"}, "gives 'username' a second time"),
        ("redis://:opensesame@localhost", {"PASSWORD": ""}, "gives 'password' a second time"),
        ("redis://localhost?protocol=2", {"OPTIONS": {"protocol": 3}}, "gives 'protocol' a second time"),
        ("redis://localhost?protocol=4", {}, "OPTIONS['protocol'] has a value that cannot be used. Give 2 or 3."),
        ("rediss://localhost?ssl_min_version=769", {}, "Give ssl.TLSVersion.TLSv1_2 or TLSv1_3."),
        ("rediss://localhost", {"OPTIONS": {"ssl_cert_reqs": None}}, "OPTIONS['ssl_cert_reqs'] is of type NoneType."),
    ],
)
def test_options_that_contradict_the_url(settings, url, options, message):
    """Options and query arguments must fit the URL's scheme, and be given once."""
    configure(settings, url, **options)

    with pytest.raises(ImproperlyConfigured, match=re.escape(message)):
        get_settings()


def test_options_are_frozen_and_sorted(settings):
    """Two dicts of the same connection arguments make one settings object, whatever their order."""
    first, second = {"ssl_ca_certs": Path("ca.pem"), "protocol": 3}, {"protocol": 3, "ssl_ca_certs": Path("ca.pem")}
    settings.REDIS_INTEGRATION = {
        "first": {"URL": "rediss://localhost", "OPTIONS": first},
        "second": {"URL": "rediss://localhost", "OPTIONS": second},
    }

    assert get_settings("first").options == (("protocol", 3), ("ssl_ca_certs", Path("ca.pem")))
    assert len({get_settings("first"), get_settings("second")}) == 1


def test_settings_do_not_change():
    """A settings object is frozen."""
    with pytest.raises(FrozenInstanceError):
        RedisSettings(url=URL).retries = 3  # type: ignore[misc]


def test_repr_shows_no_secret():
    """Neither the URL nor PASSWORD nor the values of OPTIONS are in the repr."""
    settings = RedisSettings(
        url="rediss://:opensesame@localhost", password="opensesame", options=(("ssl_password", "opensesame"),)
    )

    assert "opensesame" not in repr(settings)


@pytest.mark.parametrize(
    "options",
    [
        {"PASSWORD": 4711_0815},
        {"USERNAME": "alice", "PASSWORD": "47110815", "RETRIES": "47110815"},
        {"OPTIONS": {"ssl_password": "47110815"}},
        {"OPTIONS": {"ssl_password": 47110815}},
        {"KEY_PREFIX": "47110815:"},
    ],
)
def test_problems_show_no_value(options):
    """No message or hint repeats a value, since any may be a secret that went to the wrong option."""
    with override_settings(REDIS_INTEGRATION={"default": {"URL": "redis://:47110815@localhost", **options}}):
        problems = find_problems(read_settings("default"))

    assert problems
    assert "47110815" not in repr(problems)


def test_database_is_found_by_alias(settings):
    """The checks read DATABASES through this module; an alias that is not there gives None."""
    assert get_databases() is settings.DATABASES


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=5), children, max_size=2),
    max_leaves=3,
)


@hypothesis_settings(deadline=None)
@given(
    options=st.dictionaries(st.sampled_from(OPTIONS_BESIDE_URL), ANYTHING, max_size=2),
    arguments=st.dictionaries(st.sampled_from([*PLAIN_ARGUMENTS, *TLS_ARGUMENTS]), ANYTHING, max_size=2),
)
def test_any_value_is_usable_or_improperly_configured(options, arguments):
    """Whatever stands in the options: hashable settings, or ImproperlyConfigured."""
    configured = {"default": {"URL": "rediss://localhost", "OPTIONS": arguments, **options}}

    with override_settings(REDIS_INTEGRATION=configured), suppress(ImproperlyConfigured):
        assert hash(get_settings()) == hash(get_settings("default"))


@hypothesis_settings(deadline=None)
@given(
    scheme=st.sampled_from(["redis://", "rediss://", "unix:///"]),
    rest=st.text(st.sampled_from("a1:/?#[]@%=&.db") | st.characters(), max_size=12),
)
def test_any_url_is_usable_or_improperly_configured(scheme, rest):
    """Whatever stands in the URL: an address that can be told, or ImproperlyConfigured."""
    with override_settings(REDIS_INTEGRATION={"default": {"URL": scheme + rest}}), suppress(ImproperlyConfigured):
        assert get_settings().address
        assert get_settings().is_local in (True, False)


@pytest.mark.parametrize(
    ("connection_class", "arguments"),
    [
        (redis.Connection, PLAIN_ARGUMENTS),
        (redis.asyncio.Connection, PLAIN_ARGUMENTS),
        (redis.SSLConnection, PLAIN_ARGUMENTS | TLS_ARGUMENTS),
        (AsyncSSLConnection, PLAIN_ARGUMENTS | TLS_ARGUMENTS),
        (redis.UnixDomainSocketConnection, {"protocol": 3, "socket_read_size": 4096}),
        (redis.asyncio.UnixDomainSocketConnection, {"protocol": 3, "socket_read_size": 4096}),
    ],
)
def test_redis_py_takes_the_allowed_arguments(connection_class, arguments):
    """Every allowed connection argument exists in redis-py, sync and async."""
    assert connection_class(**arguments)


def test_allowed_arguments_pass(settings):
    """All connection arguments together are accepted beside a rediss:// URL."""
    configure(settings, "rediss://localhost", OPTIONS=PLAIN_ARGUMENTS | TLS_ARGUMENTS)

    assert dict(get_settings().options) == PLAIN_ARGUMENTS | TLS_ARGUMENTS
    assert ConnectionArguments.__annotations__.keys() == (PLAIN_ARGUMENTS | TLS_ARGUMENTS).keys()


def test_docs_list_every_option_with_its_default():
    """The table of options in the docs is the dataclass: same names, same order, same defaults."""
    documented = [(name, default.strip("`")) for name, _, default, _ in read_table("Options", columns=4)]

    special = {"URL": "required", "OPTIONS": "{}"}
    defaults = {member.name.upper(): repr(member.default).replace("'", '"') for member in fields(RedisSettings)}
    assert documented == [*(defaults | special).items()]


def test_docs_list_every_connection_argument():
    """The table of connection arguments in the docs is the allow-list."""
    documented = [name for name, _, _ in read_table("`OPTIONS`", columns=3)]

    assert documented == [*ConnectionArguments.__annotations__]
