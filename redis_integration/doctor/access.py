"""Rules about who may do what on the server, and about the way there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from django.core.checks import CheckMessage, Error, Info, Warning

from redis_integration.doctor.readings import Reading
from redis_integration.doctor.rules import rule
from redis_integration.pools.slots import connection_arguments

DAY = 86_400.0
FOR_STATS = "+hincrby"  # without it, only redis_stats has nothing to say


@rule("D501", "permissions")
def lacks_permissions(reading: Reading) -> Iterator[CheckMessage]:
    """The application's user may not send all that this package sends. Without +hincrby only redis_stats is missing: a warning.

    Each command is tried in a form that changes nothing: by ACL DRYRUN where the server has it and the user may, else by sending it,
    which leaves a line in ACL LOG for each refusal.
    """
    lacks = reading.permissions.lacks
    if lacks:
        yield (Warning if lacks == (FOR_STATS,) else Error)(
            f"The user {reading.permissions.user!r} lacks {' '.join(lacks)}.",
            hint=f"ACL SETUSER {reading.permissions.user} {' '.join(lacks)}. The least that would do: {reading.permissions.line}",
        )


@rule("D502", "permissions", "grants")
def may_do_harm(reading: Reading) -> Iterator[CheckMessage]:
    """The application's user may do what ends or lays bare the whole server, and nothing here needs, such as FLUSHALL.

    One bug or one stolen password then reaches the data of everybody on this server. On this machine itself it is only told.
    """
    grants = reading.permissions.grants
    if grants:
        yield (Info if reading.settings.is_local else Warning)(
            f"The user {reading.permissions.user!r} may use {', '.join(grants)}, and needs not.",
            hint=f"{reading.permissions.line}",
        )


@rule("D503", "config")
def is_open(reading: Reading) -> Iterator[CheckMessage]:
    """The server asks for no password, and protected-mode is off: whoever reaches its port may do everything.

    Such servers are found within hours, and used to run other programs. The image of Redis for Docker starts so.
    """
    if reading.config.get("protected-mode") == "no" and reading.config.get("requirepass") == "":
        yield (Info if reading.settings.is_local else Error)(
            "It asks for no password, and protected-mode is off: whoever reaches its port may do everything.",
            hint="CONFIG SET requirepass, or ACL SETUSER default off; let it listen to the application's network only.",
        )


@rule("D504", "tls")
def certificate_ends(reading: Reading) -> Iterator[CheckMessage]:
    """The server's TLS certificate ends within 30 days; an error within 7.

    When it has ended, no worker connects any more.
    """
    ends = reading.certificate_ends
    if ends is None or ends - time.time() > 30 * DAY:
        return
    left = (ends - time.time()) / DAY
    yield (Error if left < 7 else Warning)(
        f"Its TLS certificate ends in {left:.0f} days, on {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC.",
        hint="Renew it; CONFIG SET tls-cert-file again makes Redis read it without a restart.",
    )


@rule("D505")
def does_not_verify(reading: Reading) -> Iterator[CheckMessage]:
    """TLS is on, and nobody verifies whose certificate it is: whoever is on the way can read and change everything.

    With `ssl_cert_reqs` "none" or `ssl_check_hostname` False, of OPTIONS or the URL.
    """
    given = connection_arguments(reading.settings)
    if given.get("ssl_cert_reqs") in ("none", "optional") or given.get("ssl_check_hostname") is False:
        yield Warning(
            "TLS is on and the server's certificate is not verified.",
            hint="Give 'ssl_ca_certs' in OPTIONS, and leave out ssl_cert_reqs and ssl_check_hostname.",
        )
