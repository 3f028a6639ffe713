"""Rules about who may do what: each made to fire on a real server."""

from __future__ import annotations

import subprocess

import pytest
from django.core.checks import ERROR, INFO, WARNING

from demo_project.server import ServerError, free_port, start_server
from redis_integration.doctor import examine
from tests.conftest import BRISK
from tests.doctor.conftest import LOOKING, PASSWORD, is_redis_6, permit, permit_what_is_needed, say


def test_user_with_what_is_needed_is_fine(healthy):
    """And with what the doctor needs to see that."""
    permit_what_is_needed(healthy, *LOOKING)

    report = examine(tags=["access"])

    assert (report.findings, report.not_checked) == ((), ())


@pytest.mark.parametrize("may_ask", [True, False], ids=["DRYRUN", "tried"])
@pytest.mark.parametrize("missing", ["+set", "+evalsha", "+info", "+client|setname"])
def test_missing_command_is_told(healthy, missing, may_ask):
    """With the rule that mends it; both where the server can be asked and where only trying tells."""
    permit_what_is_needed(healthy, *(["+acl|whoami", "+acl|dryrun"] if may_ask else []), without=[missing])

    found = say(tags=["access"])

    assert found["D501"].level == ERROR
    assert found["D501"].msg == f"The user 'app' lacks {missing}."
    assert found["D501"].hint.startswith(f"ACL SETUSER app {missing}. ")


@pytest.mark.parametrize("may_ask", [True, False], ids=["DRYRUN", "tried"])
def test_missing_pattern_is_told(healthy, prefix, may_ask):
    """Leases stand outside of what `~prefix:*` allows."""
    pattern = f"~{{{prefix}:*"
    permit_what_is_needed(healthy, *(["+acl|whoami", "+acl|dryrun"] if may_ask else []), without=[pattern])

    assert say(tags=["access"])["D501"].msg == f"The user 'app' lacks {pattern}."


def test_who_may_not_ask_what_is_too_much_is_told_what_would_allow_it(healthy):
    """In words that this server has."""
    permit_what_is_needed(healthy, "+info", "+config|get")

    missed = {each.rule.id: each.allow for each in examine(tags=["access"]).not_checked}

    assert missed == {"D502": "+acl|whoami " + ("+acl|getuser" if is_redis_6(healthy) else "+acl|dryrun")}


def test_powerful_user_is_told_with_the_line_that_would_do(healthy, prefix):
    """On this machine itself it is no warning."""
    found = say(tags=["access"])

    assert found["D502"].level == INFO
    assert "FLUSHALL, KEYS, CONFIG SET, DEBUG, SHUTDOWN, the keys of others" in found["D502"].msg
    assert found["D502"].hint.startswith(
        f"ACL SETUSER app resetkeys ~{prefix}:* ~{{{prefix}:* resetchannels -@all +get "
    )


def test_the_line_works(healthy, admin):
    """Whoever copies it has nothing more to allow, and keeps the password."""
    line = say(tags=["access"])["D502"].hint
    admin.execute_command(*line.split())
    permit_more = ["+acl|whoami", "+acl|dryrun"]
    admin.execute_command("ACL", "SETUSER", "app", *permit_more)

    assert not {"D501", "D502"} & say(tags=["access"]).keys()
    assert "D101" not in say(tags=["connection"])


@pytest.mark.parametrize(
    ("rules", "allows"), [(["+info"], "+config|get"), ([], "+config|get"), (["+config|get"], "+acl|whoami +acl|dryrun")]
)
def test_user_with_next_to_nothing_is_told_what_to_allow(healthy, rules, allows):
    """The doctor runs with +info alone, and without it too."""
    permit(healthy, *rules)

    report = examine()

    assert report.checks > (20 if "+info" in rules else 5)
    assert allows in {each.allow for each in report.not_checked}
    assert {each.why for each in report.not_checked} <= {""}


def test_open_server_is_told(admin, healthy):
    """No password, and protected-mode off: a warning only of what is not this machine."""
    admin.config_set("protected-mode", "no")

    assert say(tags=["access"])["D503"].level == INFO

    admin.config_set("requirepass", PASSWORD)

    assert "D503" not in say(tags=["access"])


@pytest.fixture
def days():
    return 90


@pytest.fixture
def secure(settings, prefix, tmp_path, days):
    """A server with TLS, whose certificate ends in so many days."""
    paths = key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
         "-out", certificate, "-days", f"{days}", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    files = [
        "--tls-key-file",
        str(paths[0]),
        "--tls-cert-file",
        str(certificate),
        "--tls-ca-cert-file",
        str(certificate),
    ]
    port = free_port()
    try:
        server = start_server("--tls-port", f"{port}", "--tls-auth-clients", "no", *files)
    except ServerError:
        pytest.skip("This server was built without TLS.")
    with server:
        settings.REDIS_INTEGRATION = {
            "default": {
                "URL": f"rediss://localhost:{port}/0",
                "KEY_PREFIX": prefix,
                "OPTIONS": {"ssl_ca_certs": str(certificate)},
                **BRISK,
            }
        }
        yield settings.REDIS_INTEGRATION["default"]


@pytest.mark.parametrize(("days", "level"), [(3, ERROR), (20, WARNING), (90, None)])
def test_certificate_that_ends_is_told(secure, level):
    """A week before, at the latest, it is an error."""
    found = say(tags=["access"])

    assert (found["D504"].level if "D504" in found else None) == level
    assert "D505" not in found


@pytest.mark.parametrize("options", [{"ssl_cert_reqs": "none"}, {"ssl_check_hostname": False}])
def test_certificate_that_nobody_verifies_is_told(secure, settings, options):
    """Encrypted, and by whom nobody knows."""
    options = {**secure["OPTIONS"], **options}
    settings.REDIS_INTEGRATION = {"default": {**secure, "OPTIONS": options}}

    assert "not verified" in say(tags=["access"])["D505"].msg
